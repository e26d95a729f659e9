"""What a batch script reads after ``electra-ds doctor --preflight``.

``$ELECTRA_DS_LIFE/preflight.json`` holds ``{"good_nodes": [...], "bad_nodes": {node: reason}, "status": number}``. The
status is the first rank's exit status, too: 0 if all is good, 79 (`electra_ds.lives.BAD_NODES`) if nodes are bad, 2 if
something is bad that other nodes would not mend. srun may return another: 137 or 143 if it killed a rank that hung. So
go by the file where there is one, and let srun not wait for such a rank (``--kill-on-bad-exit=1``, or ``--wait=10``).

The first rank writes the file, so where its own node is bad there are three cases. It cannot be reached, but lives: it
sees that nobody came and blames itself. It differs from the rest (versions, a missing mount): found like any other
node. It is dead or its rank never started: the other ranks end with 79 and an error that names its address, srun says
what became of the first task, and *there is no preflight.json*: a script that finds none after a status other than 0
and 2 takes the first node of the step for the bad one.
"""

from __future__ import annotations

from collections.abc import Sequence

from electra_ds.doctor.coordinator import Gathered
from electra_ds.doctor.findings import Finding, bad_nodes
from electra_ds.errors import UserError
from electra_ds.files import write_json
from electra_ds.lives import LIFE_VARIABLE, life_folder

PREFLIGHT_NAME = "preflight.json"


def write_preflight(got: Gathered, findings: Sequence[Finding], status: int) -> None:
    """Leave the verdict on the nodes in this life's folder; nothing outside a batch script that makes one.

    Raises:
        UserError: the folder cannot be written.
    """
    folder = life_folder()
    if folder is None:
        return
    bad = bad_nodes(findings)
    names = list(dict.fromkeys([*got.expected, *(got.node_of[rank] for rank in sorted(got.node_of))]))
    value = {"good_nodes": [node for node in names if node not in bad], "bad_nodes": bad, "status": status}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / PREFLIGHT_NAME, value)
    except OSError as error:
        raise UserError(f"{LIFE_VARIABLE}={folder}: {PREFLIGHT_NAME} cannot be written ({error})") from error
