"""What a measured number depends on beside the config: the processor, and the code's revision."""
import platform
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Optional

_ROOT = Path(__file__).resolve().parents[1]


def read_proc(path: str, field: str) -> str:
    """The first value of a field, 'field: value', of a file of Linux.

    Raises:
        OSError, RuntimeError: There is no such file, or no such field.
    """
    with open(path) as file:
        for line in file:
            name, _, value = line.partition(':')
            if name.strip() == field:
                return value.strip()
    raise RuntimeError(f'{path} has no {field}, as Linux has it.')


def cpu_name() -> str:
    """Name of the CPU; its architecture where Linux does not say it (ARM)."""
    with suppress(OSError, RuntimeError):
        return read_proc('/proc/cpuinfo', 'model name')
    return platform.processor() or platform.machine()


def cpu_flags() -> set[str]:
    """What Linux says that an x86 CPU has; empty elsewhere."""
    with suppress(OSError, RuntimeError):
        return set(read_proc('/proc/cpuinfo', 'flags').split())
    return set()


def lacks_int8_products() -> bool:
    """Tell whether an x86 CPU has no instruction for sums of 8-bit products (VNNI).

    Without it, the sums of two products are cut off at 16 bits.
    """
    flags = cpu_flags()
    return bool(flags) and not flags & {'avx512_vnni', 'avx_vnni', 'amx_int8'}


def git(*arguments: str) -> Optional[str]:
    """Output of a git command in the checkout of this package; None where there is none."""
    if not (_ROOT / '.git').exists():  # installed; a repository around it is another project
        return None
    with suppress(OSError, subprocess.CalledProcessError):
        return subprocess.run(['git', '-C', str(_ROOT), *arguments], check=True, text=True,
                              capture_output=True).stdout.strip()
    return None
