"""A user's own game: what the files say is what the constructors get, and damaged or hostile files are refused."""

import io
import pickle
import zipfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.lib import format as npy

from jaxgame import gamefile
from jaxgame.games import AlignmentGame, Dense, Diagonal, MeanField, Network, QuadraticGame, Scaled

TARGETS = [[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.4, 0.4, 0.2]]
KERNEL = [[1, 0.5, 0], [0.5, 1, 0.25], [0, 0.25, 1]]
APPEAL = [0.1, 0.2, 0.3]


def alike(game, expected):
    assert type(game) is type(expected)
    assert jax.tree.structure(game) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(game), jax.tree.leaves(expected), strict=True):
        assert np.array_equal(one, other) and np.asarray(one).dtype == np.asarray(other).dtype


def toml(tmp_path, text):
    path = tmp_path / "game.toml"
    path.write_text(text)
    return path


def npz(tmp_path, **arrays):
    path = tmp_path / "game.npz"
    np.savez(path, **{name.replace("__", "."): value for name, value in arrays.items()})
    return path


def refused(path, words, **options):
    with pytest.raises(ValueError, match=words) as caught:
        gamefile.load(path, **options)
    assert str(path.name) in str(caught.value) and "\n" not in str(caught.value)


def test_alignment_game_in_toml(tmp_path):
    path = toml(
        tmp_path,
        f"""kind = "alignment"
        targets = {TARGETS}
        kernel = {KERNEL}
        appeal = {APPEAL}
        attractiveness = [1, 2, 3]
        diversity = -0.1
        diversity_form = "centroid"
        consistency_metric = "mixture"
        spread = [1, 2, 1.5]
        reach = [0.5, 0.25, 0.25]
        groups = ["left", "centre", "right"]
        [coupling]
        weights = [[0, 1, 0], [0.5, 0, 0.5], [0, 0, 0]]
        """,
    )
    game, names = gamefile.load(path)
    weights = np.array([[0, 1, 0], [0.5, 0, 0.5], [0, 0, 0]])
    options: dict[str, Any] = dict(attractiveness=np.array([1, 2, 3]), diversity=-0.1, spread=np.array([1, 2, 1.5]))
    options |= dict(diversity_form="centroid", consistency_metric="mixture", reach=np.array([0.5, 0.25, 0.25]))
    expected = AlignmentGame(
        np.array(TARGETS), np.array(KERNEL), np.array(APPEAL), coupling=Network(weights), **options
    )
    alike(game, expected)
    assert names == ("left", "centre", "right")


def test_references_to_files_and_edges(tmp_path):
    np.save(tmp_path / "targets.npy", np.array(TARGETS))
    (tmp_path / "appeal.csv").write_text("0.1\n0.2\n0.3\n")
    (tmp_path / "kernel.csv").write_text("\n".join(",".join(map(str, row)) for row in KERNEL))
    (tmp_path / "edges.csv").write_text("0,1,1\n1,0,0.5\n1,2,0.5\n")
    text = 'kind = "alignment"\ntargets = "targets.npy"\nkernel = "kernel.csv"\nappeal = "appeal.csv"\n'
    path = toml(tmp_path, f'{text}[coupling]\nedges = "edges.csv"\n')
    game, names = gamefile.load(path)
    dense = np.array([[0, 1, 0], [0.5, 0, 0.5], [0, 0, 0]])
    expected = AlignmentGame(np.array(TARGETS), np.array(KERNEL), np.array(APPEAL), coupling=Network(dense))
    profile = jnp.asarray(TARGETS)[::-1]
    assert np.allclose(game.marginals(profile), expected.marginals(profile))
    assert isinstance(game, AlignmentGame)
    assert np.allclose(game.replace(diversity=1.0).others(profile), expected.replace(diversity=1.0).others(profile))
    assert names == ("group 0", "group 1", "group 2")


B = np.array([[0.5, 0.1], [0.1, 0.4]])
LINEAR = np.array([[0.1, 0.2], [0.3, 0.1]])
QUADRATIC = {
    "mean field": (
        dict(
            curvature=1.0,
            coupling__kind="mean-field",
            coupling__B=B,
            coupling__atomic=False,
            coupling__sensitivity=[1.0, 2],
        ),
        dict(curvature=1.0, coupling=MeanField(B, sensitivity=np.array([1.0, 2]), atomic=False)),
    ),
    "diagonal": (
        dict(
            curvature__diagonal=[1.0, 2], coupling__kind="network", coupling__weights=[[0, 1.0], [2, 0]], coupling__B=B
        ),
        dict(curvature=Diagonal(np.array([1.0, 2])), coupling=Network(np.array([[0, 1.0], [2, 0]]), B)),
    ),
    "scaled": (
        dict(
            curvature__scale=[1.0, 2], curvature__matrix=B, coupling__kind="dense", coupling__B=np.zeros((2, 2, 2, 2))
        ),
        dict(curvature=Scaled(np.array([1.0, 2]), B), coupling=Dense(np.zeros((2, 2, 2, 2)))),
    ),
    "shared matrix": (
        dict(curvature=B, coupling__kind="mean-field", coupling__B=B, coupling__include_self=False),
        dict(curvature=B, coupling=MeanField(B, include_self=False)),
    ),
}


@pytest.mark.parametrize("case", QUADRATIC)
def test_quadratic_game_in_npz(tmp_path, case):
    entries, expected = QUADRATIC[case]
    game, _ = gamefile.load(npz(tmp_path, kind="quadratic", linear=LINEAR, **entries))
    alike(game, QuadraticGame(LINEAR, expected["curvature"], coupling=expected["coupling"]))


def test_toml_and_npz_say_the_same(tmp_path):
    entries, _ = QUADRATIC["mean field"]
    one, _ = gamefile.load(npz(tmp_path, kind="quadratic", linear=LINEAR, **entries))
    path = toml(
        tmp_path,
        f"""kind = "quadratic"
        linear = {LINEAR.tolist()}
        curvature = 1.0
        [coupling]
        kind = "mean-field"
        B = {B.tolist()}
        atomic = false
        sensitivity = [1.0, 2]
        """,
    )
    alike(gamefile.load(path)[0], one)


def test_precision_is_that_of_the_arrays(tmp_path):
    arrays = dict(targets=np.array(TARGETS, np.float32), kernel=np.array(KERNEL, np.float32))
    game, _ = gamefile.load(npz(tmp_path, kind="alignment", appeal=np.array(APPEAL, ">f4"), **arrays))
    assert isinstance(game, AlignmentGame)
    assert game.targets.dtype == np.float32


class Evil:
    opened = False

    def __reduce__(self):
        return (setattr, (Evil, "opened", True))


def test_pickles_are_refused_and_never_run(tmp_path):
    path = tmp_path / "game.npz"
    np.savez(path, kind="alignment", targets=np.array([Evil()], object))
    refused(path, "pickled Python objects")
    np.save(tmp_path / "targets.npy", np.array([Evil()], object))
    path = toml(tmp_path, f'kind = "alignment"\ntargets = "targets.npy"\nkernel = {KERNEL}\nappeal = {APPEAL}\n')
    with pytest.raises(ValueError, match="targets.npy holds pickled"):
        gamefile.load(path)
    path = tmp_path / "plain.npz"
    path.write_bytes(pickle.dumps(Evil()))
    refused(path, "not a whole npz file")
    assert not Evil.opened


def header(shape, data=b"", dtype="<f8"):
    file = io.BytesIO()
    npy.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue() + data


def archive(path, **members):
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


def test_headers_that_promise_too_much_are_refused_before_anything_is_read(tmp_path, monkeypatch):
    def read(*args, **kwargs):
        raise AssertionError("an array was read")

    monkeypatch.setattr(npy, "read_array", read)
    refused(archive(tmp_path / "a.npz", targets=header((10**9, 10**9))), "limit of 1,073,741,824 bytes")
    refused(archive(tmp_path / "b.npz", targets=header((10, 10), bytes(792))), "cut short or damaged: 792 bytes")
    refused(
        archive(tmp_path / "c.npz", a=header((100,), bytes(800)), b=header((100,), bytes(800))), "limit", limit=1599
    )
    refused(archive(tmp_path / "d.npz", targets=b"\x93NUMPY\x01"), "not an npy array")
    refused(archive(tmp_path / "e.npz", targets=header((-1, 3))), "damaged|limit|npy")


@pytest.mark.parametrize(("field", "value"), [(8, 1), (10, 99)], ids=["encrypted", "unknown compression"])
def test_archives_that_cannot_be_unpacked_are_refused(tmp_path, field, value):
    """By the first member's entry in the central directory; zipfile has an error of its own for each."""
    path = npz(tmp_path, kind="alignment", targets=TARGETS, kernel=KERNEL, appeal=APPEAL)
    whole = bytearray(path.read_bytes())
    whole[whole.index(b"PK\x01\x02") + field] = value
    path.write_bytes(whole)
    refused(path, "not a whole npz file")


def test_truncated_archives_are_refused(tmp_path):
    path = npz(tmp_path, kind="alignment", targets=TARGETS, kernel=KERNEL, appeal=APPEAL)
    gamefile.load(path)
    whole = path.read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:length])
        refused(path, "not a whole npz file")
    at = whole.index(np.array(TARGETS).tobytes())
    path.write_bytes(whole[: at + 3] + bytes([whole[at + 3] ^ 0xFF]) + whole[at + 4 :])
    refused(path, "not a whole npz file")  # the checksum


GOOD = f'kind = "alignment"\ntargets = {TARGETS}\nkernel = {KERNEL}\nappeal = {APPEAL}\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kind = 3", "kind is 3, expected 'alignment' or 'quadratic'"),
        ("targets = [[1]]", "kind is missing"),
        ('kind = "alignment"\nkernel = [[1]]', "targets is missing"),
        (GOOD + "atractiveness = 1", "atractiveness is not used here; did you mean 'attractiveness'"),
        (GOOD + "diversity_form = 1", "diversity_form is 1, expected a text"),
        (GOOD + "coupling = 3", r"coupling is int, expected a table"),
        (GOOD + "[coupling]\nkind = 'dense'", "coupling.kind is 'dense', expected 'network'"),
        (GOOD + "[coupling]\nweights = [[0, 1], [1, 0]]", "coupling.weights has shape"),
        (GOOD + "[coupling]\nedges = [[0, 3, 1]]", r"coupling.edges\[0, 1\] is 3.*an agent from 0 to 2"),
        (GOOD + "[coupling]\nedges = [[0, 1]]", r"coupling.edges has shape \(1, 2\)"),
        (GOOD + "attractiveness = true", "attractiveness holds bool"),
        (GOOD + "attractiveness = nan", "attractiveness is nan"),
        (GOOD + "attractiveness = [[1], [1, 2]]", "rows of different lengths"),
        (GOOD + 'groups = ["a"]', "expected a list of 3 names"),
        (GOOD.replace("0.5, 0.3, 0.2", "0.5, 0.3, 0.3"), r"targets\[0\] sums to 1.1"),
        ("kind = [", "not a TOML file"),
        (
            'kind = "quadratic"\nlinear = [[1, 0]]\ncurvature = 1\n[coupling]\nkind = "mean-field"\nB = [[1]]',
            "coupling.B",
        ),
        (
            'kind = "quadratic"\nlinear = [[1, 0]]\n[curvature]\nscale = [1]\n[coupling]\nkind = "dense"',
            "curvature.matrix is missing",
        ),
        ('kind = "quadratic"\nlinear = "x.csv"\ncurvature = 1', "x.csv"),
    ],
)
def test_errors_name_the_file_and_the_entry(tmp_path, text, words):
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    path = toml(tmp_path, text)
    with pytest.raises(ValueError, match=words) as caught:
        gamefile.load(path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "game.json").write_text("{}")
    refused(tmp_path / "game.json", "ends in .npz or .toml")
    (tmp_path / "game.toml").write_bytes(b"\xff\xfe")
    refused(tmp_path / "game.toml", "not UTF-8")
    with pytest.raises(FileNotFoundError):
        gamefile.load(tmp_path / "none.npz")
    (tmp_path / "empty.csv").write_text("")
    path = toml(tmp_path, 'kind = "quadratic"\nlinear = "empty.csv"')
    with pytest.raises(ValueError, match="empty.csv.*it is empty"):
        gamefile.load(path)


def test_text_that_is_too_long_is_refused(tmp_path):
    refused(toml(tmp_path, GOOD), "limit of 10 bytes", limit=10)
