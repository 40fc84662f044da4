"""Whether an endpoint serves the job at all: what one request cannot tell, many in a row can."""

from __future__ import annotations

from data_construction.vlm.errors import EndpointError, GaveUpError

SILENT, ALIKE = 8, 20
"""So many requests in a row without any answer, or refused in the same way before one succeeded, end the job."""


class Health:
    """``served``: a request has succeeded, now or in an earlier run of the job."""

    def __init__(self, proxy: str | None = None) -> None:
        """``proxy``: through which requests go, to be named where nobody answers."""
        self.served = False
        self._way = f", or the proxy ({proxy}) in the way: NO_PROXY names hosts to ask directly" if proxy else ""
        self._silent = self._alike = 0
        self._refusal = ""

    def answered(self) -> None:
        self.served, self._silent, self._alike = True, 0, 0

    def gave_up(self, error: GaveUpError) -> None:
        """Raises EndpointError where there is no sense in going on."""
        self._silent = self._silent + 1 if error.server_down else 0
        if self._silent >= SILENT:
            raise EndpointError(
                f"{self._silent} requests in a row got no answer ({error}); is the endpoint up{self._way}?"
            )
        refused = error.reason if error.reason.startswith("http_4") else ""
        self._alike = self._alike + 1 if refused and refused == self._refusal else int(bool(refused))
        self._refusal = refused
        if self._alike >= ALIKE and not self.served:
            raise EndpointError(f"the first {self._alike} requests were all refused alike: {error}")
