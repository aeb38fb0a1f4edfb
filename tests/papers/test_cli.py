"""`netwright papers` and `netwright reproduce` through the real program."""

from __future__ import annotations

import json

import pytest

from netwright.cli.app import main


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return ended.value.code, out, err


def test_the_list(capsys):
    code, out, _ = call(capsys, "papers")
    assert code == 0 and "fastrp" in out and "rdesign" in out and "69 papers" in out


def test_the_list_as_json_is_one_document(capsys):
    code, out, _ = call(capsys, "papers", "--json", "--evidence", "nowhere")
    rows = json.loads(out)
    assert code == 0 and len(rows) == 69
    by_slug = {row["slug"]: row for row in rows}
    assert by_slug["fastrp"]["state"] == "implemented" and by_slug["fastrp"]["number"] == 31
    assert by_slug["s4"]["state"] == "not yet" and by_slug["fastrp"]["verdict"] is None


def test_the_list_filtered(capsys):
    _, out, _ = call(
        capsys, "papers", "projection", "--package", "graphs", "--state", "implemented", "--json"
    )
    assert [row["slug"] for row in json.loads(out)] == ["fastrp"]
    code, _, err = call(capsys, "papers", "--package", "nothing")
    assert code == 2 and "packages:" in err and "Traceback" not in err


def test_the_list_with_verdicts_and_as_a_page(capsys, tmp_path):
    kept = {"slug": "fastrp", "number": 31, "verdict": "partly reproduced", "quick": False, "claims": []}
    (tmp_path / "fastrp.json").write_text(json.dumps(kept))
    code, out, _ = call(capsys, "papers", "#31", "--evidence", tmp_path, "--html", tmp_path / "p.html")
    assert code == 0 and "partly reproduced" in out
    assert "partly reproduced" in (tmp_path / "p.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("fastrb",), "did you mean fastrp"),
        (("rdesign",), "not implemented yet"),
        (("fastrp", "--data", "/nowhere/blog.mat"), "/nowhere/blog.mat"),
    ],
)
def test_what_cannot_be_reproduced_is_one_line(capsys, tmp_path, arguments, said):
    code, out, err = call(capsys, "reproduce", *arguments, "--out", tmp_path / "out")
    assert code == 2 and said in err and len(err.strip().splitlines()) == 1 and not out
    assert not (tmp_path / "out").exists()


def test_a_users_graph_is_embedded(capsys, tmp_path):
    import numpy as np

    from netwright.graphs import Embedding

    rng = np.random.default_rng(0)
    side = rng.integers(0, 2, 4000)
    pairs = np.stack([rng.integers(0, 60, 4000) + 60 * side, rng.integers(0, 60, 4000) + 60 * side], axis=1)
    np.savetxt(tmp_path / "mine.txt", pairs, fmt="%d")
    (tmp_path / "mine.labels").write_text(
        "".join(f"{k} {'left' if k < 60 else 'right'}\n" for k in range(120))
    )
    code, out, _ = call(
        capsys,
        "reproduce",
        "fastrp",
        "--quick",
        "--data",
        tmp_path / "mine.txt",
        "--out",
        tmp_path / "out",
        "--json",
    )
    found = json.loads(out)
    assert code == 0 and found["verdict"] is None and found["command"].endswith("--data mine.txt")
    rows = dict(found["tables"][0]["rows"])
    assert rows["nodes"] == 120 and rows["micro-F1, 10 % labelled"] > 0.9
    assert Embedding.load(tmp_path / "out" / "fastrp-mine.npz").vectors.shape == (120, 512)


@pytest.mark.recipe
@pytest.mark.data
def test_fastrp_quick(capsys, tmp_path):
    code, out, err = call(capsys, "reproduce", "fastrp", "--quick", "--out", tmp_path)
    assert code == 0 and "Verdict: none (quick run)" in out and "tuned on" in err
    found = json.loads((tmp_path / "fastrp.quick.json").read_text())
    assert found["verdict"] is None and found["quick"] is True
    assert sum(claim["measured"] is not None for claim in found["claims"]) >= 8
    assert (tmp_path / "fastrp.quick.svg").read_text().startswith("<svg")
