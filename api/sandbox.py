"""Whether probes can be jailed here, and what is not taken where they cannot."""

from __future__ import annotations

import threading

from api.settings import Settings
from recommender.executors import ProbeSpec, held, jail

# Made by our own code from numbers and names that were checked at the door.
OWN_MODELS = frozenset({"family", "sample"})
OWN_DATA = frozenset({"summary", "sample"})


class Sandbox:
    """What this machine can hold; the trial takes some tenths of a second, beside other work.

    Args:
        settings: The service's.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._found: str | None = None
        self._trial = threading.Thread(target=self._try, daemon=True)
        self._trial.start()

    def reason(self) -> str | None:
        """Why probes are not jailed, in a sentence; None where they are."""
        self._trial.join()
        return self._found

    def state(self) -> str:
        """Whether probes are jailed: ok, off, being tried, or why not."""
        if self._settings.sandbox == "off":
            return "off"
        if self._trial.is_alive():
            return "being tried"
        return self._found or "ok"

    def refuses(self, spec: ProbeSpec) -> str | None:
        """Why a probe may not be run here, in a sentence, or None.

        Args:
            spec: The probe.
        """
        reason = self.reason()
        if reason is None or self._settings.sandbox == "off":
            return None
        if spec.model["kind"] in OWN_MODELS and spec.data["kind"] in OWN_DATA:
            return None
        return (
            f"Where this service runs, probes of uploads cannot be jailed: {reason} "
            "Ask about a sample or a description, or have its operator set KGO_SANDBOX=off."
        )

    def _try(self) -> None:
        if self._settings.sandbox == "off":
            self._found = "It was switched off with KGO_SANDBOX=off."
            return
        root = jail.exposed(self._settings.data_dir)
        if root is not None:
            self._found = f"The data folder lies in {root}, which probes may read. Move it."
            return
        self._found = held.refusal()
