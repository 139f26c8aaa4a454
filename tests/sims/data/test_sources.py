import json

import polib

from fedmore.sims.data.interface import django, home_assistant, read_mo, tidy
from fedmore.sims.data.sources import blocks, family, phenotypes

OBO = r"""format-version: 1.2

[Term]
id: HP:1
name: All

[Term]
id: HP:2
name: Small ear
def: "An ear that is \"small\"." [x]
comment: Seen often.
is_a: HP:1 ! All

[Term]
id: HP:3
name: Gone
def: "Old." []
is_obsolete: true

[Typedef]
id: part_of
name: part of
"""


def test_phenotypes_have_definition_and_comment_and_no_obsolete_term():
    (item,) = phenotypes(OBO)
    assert item.text == 'Small ear: An ear that is "small". Seen often.'
    assert item.group == "Small ear"


def test_families_gather_versions():
    assert {family(key) for key in ("gpl-2.0-classpath", "gpl-3.0", "gpl")} == {"gpl"}
    assert family("389-exception") == "389-exception"


def test_blocks_end_at_top_level_definitions_and_lose_no_long_one():
    body = "    x = 1  # padding\n" * 30
    text = "import os\n" + "".join(f"def f{i}():\n{body}\n\n" for i in range(10))
    parts = list(blocks(text, target=1500))
    assert all(300 <= len(part) <= 3000 for part in parts)
    assert sum(part.count("def f") for part in parts) == 10
    assert all(part.startswith(("import", "def f")) for part in parts)


def test_compiled_catalogues_are_read_as_gettext_wrote_them(tmp_path):
    catalogue = polib.POFile()
    catalogue.metadata = {"Content-Type": "text/plain; charset=utf-8"}
    catalogue.append(polib.POEntry(msgid="Are you sure?", msgstr="Está seguro?"))
    catalogue.append(polib.POEntry(msgctxt="menu", msgid="Open it", msgstr="Ábreo"))
    plural = polib.POEntry(msgid="%d day", msgid_plural="%d days")
    plural.msgstr_plural = {0: "%d día", 1: "%d días"}
    catalogue.append(plural)
    folder = tmp_path / "django/contrib/admin/locale/gl/LC_MESSAGES"
    folder.mkdir(parents=True)
    catalogue.save_as_mofile(str(folder / "django.mo"))
    found = read_mo((folder / "django.mo").read_bytes())
    assert found == {"Are you sure?": "Está seguro?", "Open it": "Ábreo", "%d day": "%d día"}
    assert {group for group, _, _ in django(tmp_path, "gl")} == {"django/contrib/admin/django"}


def test_both_languages_of_a_panel_share_their_sections(tmp_path):
    folder = tmp_path / "config"
    folder.mkdir()
    english = {"ui.panel.config.tag.add": "Add tag", "ui.panel.config.tag.remove": "Remove tag"}
    (folder / "en-0.json").write_text(json.dumps(english), encoding="utf-8")
    (folder / "gl-0.json").write_text('{"ui.panel.config.tag.add": "Engadir"}', encoding="utf-8")
    assert list(home_assistant(tmp_path, "gl")) == [
        ("home-assistant/ui.panel.config.tag", "Engadir", "Add tag"),
        ("home-assistant/ui.panel.config.tag", "", "Remove tag"),
    ]


def test_markup_goes_and_rules_and_labels_are_no_phrases():
    assert tidy("Are  you <b>really</b>\nsure &amp; ready?") == "Are you really sure & ready?"
    assert tidy("{count, plural, one {# day} other {# days}} since then") == ""
    assert tidy("Save") == ""
