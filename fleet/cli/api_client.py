"""Talks to the running manager over its loopback API."""

from __future__ import annotations

from typing import Any

import httpx

from edge_contract.errors import ExitCode
from fleet.errors import FleetError
from fleet.manager.state_dir import TOKEN_HEADER, StateDir

_TIMEOUT_S = 40.0
"""Above the time that the service itself waits for the manager's loop."""


class ApiClient:
    """The API of the manager that runs on a state directory.

    Raises:
        FleetError: none runs there.
    """

    def __init__(self, state: StateDir) -> None:
        self.address, token = state.running()
        # No proxy out of the environment may get between this machine and itself.
        self._client = httpx.Client(
            base_url=f"{self.address.url}/api/v1/",
            headers={TOKEN_HEADER: token},
            timeout=_TIMEOUT_S,
            trust_env=False,
        )

    def get(self, path: str, **query: str) -> Any:
        """``GET path``.

        Raises:
            FleetError: refused, or no answer.
        """
        return self._call("GET", path, params=query)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """``POST path`` with a JSON body.

        Raises:
            FleetError: refused, or no answer.
        """
        return self._call("POST", path, json=body)

    def _call(self, method: str, path: str, **extra: Any) -> Any:
        try:
            response = self._client.request(method, path, **extra)
            answer = response.json()
        except UnicodeEncodeError as error:
            raise FleetError(
                "a word on the command line is no UTF-8 text",
                hint="write it in ASCII, or under a UTF-8 locale (LANG=C.UTF-8)",
                exit_code=ExitCode.USAGE,
            ) from error
        except (httpx.HTTPError, ValueError) as error:
            raise FleetError(
                f"the manager at {self.address.url} does not answer: {error}",
                hint="edge-fleet doctor",
                exit_code=ExitCode.NETWORK,
            ) from error
        if response.is_success:
            return answer
        raise FleetError(
            str(answer.get("error", f"HTTP {response.status_code}")),
            hint=str(answer.get("hint", "")),
            docs=str(answer.get("docs", "")),
            exit_code=ExitCode(answer.get("code", ExitCode.FAILURE)),
        )
