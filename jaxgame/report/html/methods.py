"""What every page ends with: how its numbers came about, what to read, and what to cite."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from jaxgame.report.html.elements import Items, Part, Section, Table, Verbatim

if TYPE_CHECKING:
    from jaxgame.certificate.certify import Certificate
    from jaxgame.equilibrium import Equilibrium

MODEL = (
    "Each agent (a language model) plays a mixture over human groups: how much of what it says speaks for each. Its "
    "utility weighs attractiveness α, what its audience likes to hear; consistency γ, with the shares of groups it was "
    "aligned to; and diversity δ, difference from the other agents. At an equilibrium no agent gains by changing its "
    "own mixture. A group is excluded where no agent represents it.",
    "The model follows “LLM Active Alignment: A Nash Equilibrium Perspective” (arXiv 2602.06836); the concrete "
    "utilities, formulas and numbers are an instantiation of it by jaxgame, not the paper's.",
)
CITATION = """@article{wang2026llm,
  title   = {LLM Active Alignment: A Nash Equilibrium Perspective},
  author  = {Wang, Tonghan and Pan, Yuqi and Yang, Xinyi and Jiang, Yanchen and Tambe, Milind and Parkes, David C.},
  journal = {arXiv preprint arXiv:2602.06836},
  year    = {2026}
}
@software{jaxgame,
  title   = {jaxgame: equilibria of populations of language models that choose which human groups to align with},
  author  = {{The jaxgame developers}},
  version = {VERSION}
}"""


def certificates(found: Equilibrium, proof: Certificate, title: str = "Certificates") -> Section:
    """What is proved of an equilibrium."""
    gap, distance = float(found.gap), float(proof.distance)
    rows = [
        ("natural residual (scale-free)", float(found.residual), "how far the optimality conditions are from holding"),
        ("gap", gap, "no agent can gain more utility than this by changing its own mixture"),
        ("exploitability", float(np.max(np.asarray(proof.exploitability))), "what an agent's best response would gain"),
        ("distance", distance, "the exact equilibrium is at most this far away, over the whole profile"),
        ("monotonicity", float(proof.monotonicity), "smallest eigenvalue; the equilibrium is unique if positive"),
        ("Lipschitz constant", float(proof.lipschitz), "of the marginal utilities"),
        ("converged", bool(found.converged), "to the tolerance asked for"),
        ("utilities concave", bool(proof.concave), "without this the gap bounds nothing"),
        ("proved unique", bool(proof.unique), "“no” means not proved, not disproved"),
    ]
    parts: list[Part] = [proof.message]
    if not math.isfinite(gap):
        parts.append("NOT CERTIFIED: not all utilities are concave, so that a stationary point need not be optimal.")
    if not bool(found.converged):
        parts.append(str(found.message))
    parts.append(Table("What is proved of this profile", ("certificate", "value", "meaning"), rows))
    return Section(title, parts)


def closing(version: str, how: list[str], reproduce: str = "") -> list[Section]:
    """Methods and citation. how: sentences on this page's numbers; reproduce: a command."""
    parts: list[Part] = [*MODEL, Items(how)]
    if reproduce:
        parts += ["To repeat this run:", Verbatim(reproduce)]
    return [
        Section("Methods", parts),
        Section("Citation", [f"Made with jaxgame {version}.", Verbatim(CITATION.replace("VERSION", version))]),
    ]
