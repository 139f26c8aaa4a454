"""Conversations as documents: through the chat template of the base."""

from typing import Any

from fedmore.experts.documents import Converse
from fedmore.experts.errors import DataError


def chat_template(tokenizer: Any) -> Converse:
    """A function that writes a conversation as the base's template does.

    The start token is left to `fedmore.experts.text`, which opens every document with it. The
    function raises `DataError` where the base has no template, or the template refuses.
    """
    from jinja2 import TemplateError

    def converse(turns: list[dict[str, Any]]) -> str:
        if not getattr(tokenizer, "chat_template", None):
            raise DataError(
                "a conversation, but the base has no chat template; write it as text, "
                "or take a base that has one"
            )
        try:
            text = str(tokenizer.apply_chat_template(turns, tokenize=False))
        except (TemplateError, TypeError, ValueError) as error:
            raise DataError(f"the base's chat template refuses it: {error}") from error
        return text.removeprefix(tokenizer.bos_token or "")

    return converse
