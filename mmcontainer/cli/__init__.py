"""Code behind the command lines of ``tools/``: what they check, say, train, test and write."""
