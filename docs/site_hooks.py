"""Hook of MkDocs: files of the repository that a page links to become pages of the site.

Pages link to configs, sources and tests as ``../configs/retinanet/x.py``, which works where the
repository is browsed. The site holds only ``docs/``, so every such file gets a page with its text.
"""
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
# The target of a link out of docs/, without an anchor.
LINK = re.compile(r'(\]\()((?:\.\./)+)([\w./-]+)')
LANGUAGES = {'.py': 'python', '.sh': 'bash', '.json': 'json', '.yml': 'yaml', '.yaml': 'yaml',
             '.toml': 'toml'}


def _page_of(name):
    return f'files/{name}' if name.endswith('.md') else f'files/{name}.md'


def _text_of(name):
    path = ROOT / name
    text = path.read_text(encoding='utf-8')
    if path.suffix == '.md':
        # Such a page's own links would need the same treatment; they are shown as text.
        return re.sub(r'\[([^\]]+)\]\((?!https?:)[^)]*\)', r'\1', text)
    return f'# `{name}`\n\n````{LANGUAGES.get(path.suffix, "text")}\n{text}\n````\n'


def _linked_file(page, ups, name):
    """Path from the top of the repository that a link of ``page`` means; None inside of docs/."""
    target = (ROOT / 'docs' / page).parent.joinpath(ups + name).resolve()
    if target.is_relative_to(ROOT / 'docs') or not target.is_file():
        return None  # MkDocs itself says so if there is no such file
    return target.relative_to(ROOT).as_posix()


def on_files(files, config):
    """Add a page for every file of the repository that the pages link to."""
    for file in list(files.documentation_pages()):
        text = Path(file.abs_src_path).read_text(encoding='utf-8')
        for _, ups, name in LINK.findall(text):
            linked = _linked_file(file.src_uri, ups, name)
            if linked and files.get_file_from_path(_page_of(linked)) is None:
                page = File.generated(config, _page_of(linked), content=_text_of(linked))
                page.inclusion = page.inclusion.NOT_IN_NAV
                files.append(page)
    return files


def on_page_markdown(markdown, page, config, files):
    """Let links out of docs/ lead to the pages that :func:`on_files` has added."""
    up = '../' * page.file.src_uri.count('/')

    def replace(match):
        linked = _linked_file(page.file.src_uri, *match.groups()[1:])
        return f'{match[1]}{up}{_page_of(linked)}' if linked else match[0]

    return markdown if page.file.src_uri.startswith('files/') else LINK.sub(replace, markdown)
