"""What a run may spend: tokens and dollars, reserved before a request goes out, so that the cap holds."""

from __future__ import annotations

import math
import threading

from pemoe.datasets_scripts.refine.outcome import Tokens
from pemoe.datasets_scripts.schema import DataError


class BudgetError(DataError):
    """The cap leaves no room for another request; every answer received so far is in the cache."""


def estimate_tokens(text: str) -> int:
    """Tokens of an English text, roughly: one for every four characters, rounded up.

    Example:
        >>> estimate_tokens("A round pond.")
        4
    """
    return math.ceil(len(text) / 4)


class Budget:
    """Counts what is spent and reserved, and refuses what would pass the cap.

    A request reserves its estimated prompt and the longest answer it may get; the answer replaces the reservation by
    what it cost. While others are on their way, a request that does not fit waits for them. A server may count more
    than is estimated: under a cap the first answer is waited for alone, and from then on the largest ratio seen is
    reserved for all requests on their way. Only those on their way when an answer exceeds every earlier ratio can
    pass the cap. What a server charges for a request that failed is not known, and not counted.

    Args:
        tokens: cap on prompt and completion tokens together; None for no cap, as for `usd`, the one in US dollars.
        usd_per_million_in, usd_per_million_out: price of a million prompt and completion tokens.

    Raises:
        DataError: a cap or a price is negative, or `usd` comes without prices.

    Example:
        >>> budget = Budget(tokens=100)
        >>> budget.reserve(Tokens(20, 30))
        >>> budget.settle(Tokens(20, 30), Tokens(38, 12))
        >>> budget.spent.total
        50
    """

    def __init__(
        self,
        tokens: int | None = None,
        usd: float | None = None,
        usd_per_million_in: float | None = None,
        usd_per_million_out: float | None = None,
    ) -> None:
        if any(value is not None and value < 0 for value in (tokens, usd, usd_per_million_in, usd_per_million_out)):
            raise DataError("a budget or a price is negative; give zero or more")
        prices = (usd_per_million_in, usd_per_million_out)
        if usd is not None and None in prices:
            raise DataError("a budget in USD needs the price per million tokens, in and out; give both, or tokens")
        self.spent = Tokens()
        self._caps = tokens, usd
        self._prices = None if None in prices else prices
        self._estimated = Tokens()  # of all requests on their way
        self._in_flight = 0
        self._ratio = 1.0  # the largest of what a prompt cost to what it was estimated to
        self._is_unknown = tokens is not None or usd is not None  # that ratio, before the first answer
        self._changed = threading.Condition()

    def usd(self, tokens: Tokens) -> float | None:
        """The price of tokens in US dollars; None where no prices were given."""
        if self._prices is None:
            return None
        return (tokens.prompt * self._prices[0] + tokens.completion * self._prices[1]) / 1e6

    def reserve(self, estimate: Tokens) -> None:
        """Set aside what a request may cost at most; waits while requests on their way leave it open.

        Raises:
            BudgetError: it does not fit, and nothing is on its way any more.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._in_flight == 0 or self._fits(estimate))
            if not self._fits(estimate):
                cap, cap_usd = self._caps
                tokens = f"{self.spent.total} tokens" + ("" if cap is None else f" of {cap}")
                dollars = "" if cap_usd is None else f", {self.usd(self.spent):.4f} USD of {cap_usd}"
                raise BudgetError(tokens + dollars)
            self._estimated += estimate
            self._in_flight += 1

    def settle(self, estimate: Tokens, spent: Tokens) -> None:
        """Replace the reservation of an estimate by what was spent; `Tokens()` when nothing came back."""
        with self._changed:
            self._estimated += Tokens(-estimate.prompt, -estimate.completion)
            self._in_flight -= 1
            self.spent += spent
            if spent.total:
                self._is_unknown = False
                self._ratio = max(self._ratio, spent.prompt / max(estimate.prompt, 1))
            self._changed.notify_all()

    def _fits(self, estimate: Tokens) -> bool:
        """Whether a request stays within both caps; not known before the first answer shows how this server counts."""
        if self._is_unknown and self._in_flight:
            return False
        reserved, (cap, cap_usd) = self._estimated + estimate, self._caps
        total = self.spent + Tokens(math.ceil(self._ratio * reserved.prompt), reserved.completion)
        return (cap is None or total.total <= cap) and (cap_usd is None or self.usd(total) <= cap_usd)
