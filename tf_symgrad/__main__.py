"""python -m tf_symgrad: the command line, which is installed as `tf-symgrad`, too."""

import sys

from tf_symgrad import _cli

if __name__ == "__main__":
    sys.exit(_cli.main())
