"""
Text that an answer says again when it goes on at another upstream.

    said       all text of the answer so far
    given      what of it the other upstream goes on from: `said` without the spaces at its end
    again      what comes back although it was said: at api.mistral.ai all that was given, everywhere those spaces

mistral-common 1.8.8 to 1.13.1 cut spaces, and no line ends or tabs, off the end of an assistant message (instruct.py,
`content.rstrip(" ")`). vLLM 0.32 with a chat template keeps them, and a model goes astray behind one, for its tokens
begin with their space. So they are never given; the model says them anew in front of its next word.
"""

from proxy.translate.answer_rules import RuleLog
from proxy.translate.answer_text import EchoedPrefix


def given(said: str) -> str:
    """Return what of `said` an upstream is given to go on from; "" if that is only white space."""
    return said.rstrip(" ") if said.strip() else ""


class SaidAgain:
    """
    Removes what was said from the start of the text: `echo` once, if it is there as a whole (R2), and then as much of
    the end of `said` that was not given as comes again.
    """

    def __init__(self, echo: str, said: str, rules: RuleLog) -> None:
        self._echo = EchoedPrefix(echo, rules)
        self._rest = said[len(given(said)) :]

    @property
    def is_settled(self) -> bool:
        """Whether all further text passes unchanged."""
        return not self._rest and self._echo.is_settled

    def receive(self, text: str) -> str:
        """Return the text that is certainly new."""
        return self._new(self._echo.receive(text))

    def finish(self) -> str:
        """Return what was held back."""
        return self._new(self._echo.finish())

    def _new(self, text: str) -> str:
        if not text or not self._rest:
            return text
        same = 0
        while same < min(len(text), len(self._rest)) and text[same] == self._rest[same]:
            same += 1
        self._rest = self._rest[same:] if same == len(text) else ""
        return text[same:]
