"""``python -m mmcontainer``: the command ``mmcontainer``, where its script is not on the PATH."""
import sys

from mmcontainer_command import main

if __name__ == '__main__':
    sys.exit(main())
