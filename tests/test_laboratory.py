"""The lab of a node: acts keep their verdicts, and what is done on purpose alarms nobody."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from random import Random

import pytest

from cairn import Ledger
from cairn.api import problems
from cairn.api.laboratory import Laboratory
from cairn.core.errors import CairnError, DamagedError
from cairn.lab.tampering import tamper
from cairn.node import Node
from cairn.proof import witness
from cairn.proof.keyring import Keyring
from tests.service.harness import PATIENCE


def test_one_who_goes_away_leaves_the_verdicts_with_their_acts(tmp_path: Path) -> None:
    async def run() -> None:
        with Ledger.open(tmp_path / "ledger", keyring=Keyring(tmp_path / "keys")) as ledger:
            ledger.extend(range(9))
            async with Node(ledger, tmp_path / "ledger") as node:
                lab = Laboratory(node)
                first = asyncio.create_task(lab.act(lambda play: play.edit(2, b'"a lie"')))
                async with asyncio.timeout(PATIENCE):
                    while not lab.done:
                        await asyncio.sleep(0)
                first.cancel()
                await asyncio.wait([first])
                await lab.act(lambda play: play.edit(1, b'"a lie"'))
                (one, looked), (other, caught) = lab.done
                assert (one.index, looked, other.index) == (2, None, 1)
                assert caught is not None
                assert caught.failure is not None
                assert caught.failure.index == 1
                await lab.undo(everything=True)
                assert lab.done == []
                assert lab.report is not None
                assert lab.report.valid

    asyncio.run(run())


def test_what_is_done_on_purpose_is_not_logged_and_what_comes_after_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        with Ledger.open(tmp_path / "ledger", keyring=Keyring(tmp_path / "keys")) as ledger:
            ledger.extend(range(9))
            async with Node(ledger, tmp_path / "ledger") as node:
                lab = Laboratory(node)
                await lab.show_two_histories()
                await lab.act(lambda play: play.truncate(6, cover_tracks=True))
                with pytest.raises(CairnError):
                    await node.checkpoints.covering(11)
                logging.getLogger(problems.__name__).error("the disk is full: %s", OSError())
                await lab.undo()
                assert [record.getMessage() for record in caplog.records] == ["the disk is full: "]
                forge = asyncio.to_thread(tamper, tmp_path / "ledger", Random(1))
                problems.of_error(DamagedError(f"block {(await forge).index}"))
                logging.getLogger(witness.__name__).warning("conflict")
                assert len(caplog.records) == 3

    asyncio.run(run())
