"""Extension of Griffe: docstrings in reStructuredText's manner become Markdown.

The sources write ``:class:`Name` `` for references and ``::`` before a drawing.
"""
import re

from griffe import Extension

ROLE = re.compile(r':(?:func|class|mod|meth|attr|obj|data|exc):`~?\.?([^`]+)`')


def to_markdown(text):
    """Replace roles by code, and marks of literal blocks by nothing or a colon."""
    text = ROLE.sub(r'`\1`', text)
    text = re.sub(r'(?m)^( *)::\n', r'\1\n', text)
    return re.sub(r'(?m)::$', ':', text)


class MarkdownDocstrings(Extension):
    """Change every docstring before it is parsed."""

    def on_instance(self, *, obj, **kwargs):
        """Called for every module, class, function and attribute."""
        if obj.docstring:
            obj.docstring.value = to_markdown(obj.docstring.value)
