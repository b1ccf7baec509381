import hashlib
from collections import Counter
from pathlib import Path

import pytest

import genjax.data
from genjax.core.errors import UserError
from genjax.data.prompts import parti_prompts, read_prompts

FOLDER = Path(genjax.data.__file__).parent


def test_parti_prompts_are_the_published_file_with_its_licence():
    data = (FOLDER / "PartiPrompts.tsv").read_bytes()
    digest = "fab29e41bb512a169b56acab4cf2a41dcb675e285df2efcde6640c7dd3c440eb"
    assert hashlib.sha256(data).hexdigest() == digest
    assert "Apache License" in (FOLDER / "PartiPrompts.APACHE-2.0.txt").read_text()
    assert "google-research/parti" in (FOLDER / "PartiPrompts.LICENSE.md").read_text()


def test_parti_prompts_are_parsed_right():
    prompts = parti_prompts()
    assert len(prompts) == len({p.text for p in prompts}) == 1632
    assert Counter(p.category for p in prompts) == {
        "Animals": 314,
        "Artifacts": 287,
        "World Knowledge": 214,
        "People": 177,
        "Outdoor Scenes": 131,
        "Illustrations": 124,
        "Vehicles": 104,
        "Food & Beverage": 74,
        "Arts": 66,
        "Abstract": 51,
        "Produce & Plants": 50,
        "Indoor Scenes": 40,
    }
    assert Counter(p.challenge for p in prompts) == {
        "Fine-grained Detail": 312,
        "Basic": 272,
        "Simple Detail": 232,
        "Style & Format": 206,
        "Imagination": 150,
        "Complex": 113,
        "Writing & Symbols": 91,
        "Quantity": 90,
        "Perspective": 70,
        "Linguistic Structures": 61,
        "Properties & Positioning": 35,
    }
    assert sum(p.text.startswith('"') for p in prompts) == 1  # a CSV reader would strip it
    assert max(len(p.text) for p in prompts) == 389
    assert sum(not p.text.isascii() for p in prompts) == 17
    assert sum(p.text != p.text.strip() for p in prompts) == 10
    assert sum(bool(p.note) for p in prompts) == 190
    assert prompts[0].text == "bond" and prompts[0].category == "Abstract"


def test_prompts_of_files_and_sources(tmp_path):
    (tmp_path / "p.txt").write_text("a dog\n\nzwei Käfer\n")
    assert [p.text for p in read_prompts(str(tmp_path / "p.txt"))] == ["a dog", "zwei Käfer"]
    (tmp_path / "p.tsv").write_text('Prompt\tCategory\tChallenge\tNote\n"a" b\tArts\tBasic\t\n')
    (prompt,) = read_prompts(str(tmp_path / "p.tsv"))
    assert (prompt.text, prompt.category, prompt.note) == ('"a" b', "Arts", "")
    assert len(read_prompts("partiprompts", 5)) == 5
    found = read_prompts("shapes:heldout", 3)
    source = genjax.data.open_source("shapes:heldout")
    assert [p.text for p in found] == [source.caption(i) for i in range(3)]


def test_bad_prompts_are_one_line(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_prompts(str(tmp_path / "none.txt"))
    with pytest.raises(UserError, match="digits has no captions"):
        read_prompts("digits")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(UserError, match="holds no prompts"):
        read_prompts(str(tmp_path / "empty.txt"))
    (tmp_path / "p.tsv").write_text("Prompt\tCategory\tChallenge\tNote\nx\ty\n")
    with pytest.raises(UserError, match="line 2: 2 columns instead of 4"):
        read_prompts(str(tmp_path / "p.tsv"))
    (tmp_path / "p.tsv").write_text("x\n")
    with pytest.raises(UserError, match="first line must be the columns"):
        read_prompts(str(tmp_path / "p.tsv"))
