"""What processes have left that have died: settled by their journals."""

from __future__ import annotations

from pathlib import Path

from sightflow.blocks.money.balance import Balance
from sightflow.blocks.money.journal import Account, LeftJournal, left_journals, one_at_a_time
from sightflow.blocks.money.ledger import Change, Ledger


def recover(ledger: Ledger, folder: Path) -> None:
    """Settle what processes of this machine have left that have died: to the cent what they were answered, and what
    was under way at the most that it may have cost. Who comes second waits for the first, so that all that was left can
    be used when this returns. Raises StoreError.
    """
    if not folder.is_dir():
        return
    with one_at_a_time(folder):
        for left in left_journals(folder):
            for block_id in [name for name in ledger.balance().blocks if name.startswith(f"{left.id}-")]:
                _settle_left(ledger, left, block_id)
            left.close()


def _settle_left(ledger: Ledger, left: LeftJournal, block_id: str) -> None:
    account = left.accounts.get(block_id, Account())

    def decide(balance: Balance) -> Change | None:
        if (before := balance.blocks.get(block_id)) is None:
            return None
        known = max(account.known, before.known)
        unknown = account.unknown + sum(account.under_way.values())
        if not left.is_whole:
            unknown = max(unknown, before.known + before.unknown + before.reserved - known)
        most = 10**20  # of a journal that is none of ours: of more there would be no sums
        settled = {"known": min(known, most), "unknown": min(max(unknown, before.unknown), most), "reserved": 0}
        return "recover", block_id, before.model_copy(update=settled), False

    ledger.change(decide)
