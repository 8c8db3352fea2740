"""Build of mmcontainer: metadata, and the config files that travel in the package.

MMEngine resolves ``mmcontainer::retinanet/x.py`` in the folder ``mmcontainer/.mim/``. A wheel gets
a copy of ``configs/``, ``tools/`` and ``model-index.yml`` there. A checkout has links, so that it
also works uninstalled, on PYTHONPATH; an editable install makes them anew.
"""
import os
import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
MIM_SOURCES = ('configs', 'tools', 'model-index.yml')
# Only what both stacks of requirements/ share. Neither torch nor an OpenMMLab package is here: a
# plain `pip install` must never replace the build of torch that mmcv was compiled against, nor put
# one stack over the other. `import mmcontainer` checks them and names the command that is missing.
INSTALL_REQUIRES = [
    'matplotlib>=3.5',
    'numpy>=1.23',
    'pycocotools>=2.0.6',
    'pyyaml>=6.0',
    'rich>=12',
]
# The versions of requirements/dev.txt, with which nothing else of an environment has to change.
ONNX = [
    "onnx==1.23.2; python_version >= '3.10'",
    "onnx==1.19.1; python_version < '3.10'",
    "onnxruntime==1.31.1; python_version >= '3.11'",
    "onnxruntime==1.19.2; python_version < '3.11'",
    'ml_dtypes==0.5.4',
]
# No extra lists mmcv: pip would compile it in an isolated environment, where its build finds no
# torch and gives a wheel without the compiled operators. Install torch and mmcv first (README).
EXTRAS_REQUIRE = {
    'onnx': [*ONNX, 'onnxscript==0.7.2'],  # tools/export_onnx.py
    'quantize': ONNX,  # tools/quantize.py
    'openvino': ['openvino==2026.4.0'],  # another runtime for the files
    'safetensors': ['safetensors>=0.4'],  # to read files of weights in this format
    # The page of `mmcontainer explore`. It takes no Pillow 13 (docs/explore.md).
    'explore': ['gradio==6.31.0'],
    # Models of MMSegmentation, with the default stack (docs/segmentation.md).
    'seg': ['onedl-mmsegmentation==1.4.2'],
    'onedl': ['onedl-mmengine==0.10.12', 'onedl-mmdetection==3.5.1', 'onedl-mmpretrain==1.3.6'],
    'openmmlab': [
        'mmengine==0.10.7',
        'mmdet==3.3.0',
        'mmpretrain==1.2.0',
        'setuptools<81',
        'numpy<2',
    ],
}


def read_version():
    """Return the version stated in mmcontainer/version.py, without importing the package."""
    text = (ROOT / 'mmcontainer' / 'version.py').read_text(encoding='utf-8')
    return re.search(r"^__version__ = '([^']+)'$", text, re.MULTILINE).group(1)


def remove(path):
    """Remove a link, a file or a folder; a link's target stays untouched."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)


def copy(source, target):
    """Copy a file, or a folder without Python's caches."""
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns('__pycache__', '*.pyc'))
    else:
        shutil.copy2(source, target)


class BuildPyWithMim(build_py):
    """``build_py`` that also fills ``mmcontainer/.mim/``."""

    def run(self):
        super().run()
        editable = getattr(self, 'editable_mode', False)
        base = ROOT if editable else Path(self.build_lib)
        mim = base / 'mmcontainer' / '.mim'
        missing = [name for name in MIM_SOURCES if not (ROOT / name).exists()]
        if missing:
            raise FileNotFoundError(f'{", ".join(missing)}: missing beside setup.py; build from a '
                                    'complete checkout or sdist')
        mim.mkdir(parents=True, exist_ok=True)
        for name in MIM_SOURCES:
            source, target = ROOT / name, mim / name
            remove(target)
            if editable and link(source, target):
                continue
            copy(source, target)


def link(source, target):
    """Make ``target`` a relative link to ``source``; False where the system allows no links."""
    try:
        target.symlink_to(os.path.relpath(source, target.parent), source.is_dir())
    except OSError:
        return False
    return True


setup(
    name='mmcontainer',
    version=read_version(),
    description='Container, CoTNet and CoAtNet backbones for MMDetection 3.x',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8')
    if (ROOT / 'README.md').exists() else '',
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    license_files=['LICENSE'],
    keywords='computer vision, object detection, instance segmentation, backbone, MMDetection',
    python_requires='>=3.9',
    packages=find_packages(include=['mmcontainer', 'mmcontainer.*']),
    py_modules=['mmcontainer_command'],
    entry_points={'console_scripts': ['mmcontainer = mmcontainer_command:main']},
    include_package_data=False,
    package_data={'': ['*.yaml', '*.json']},
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    cmdclass={'build_py': BuildPyWithMim},
    zip_safe=False,
    classifiers=[
        'Development Status :: 3 - Alpha',
        'Intended Audience :: Developers',
        'Intended Audience :: Science/Research',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Topic :: Scientific/Engineering :: Image Recognition',
    ],
)
