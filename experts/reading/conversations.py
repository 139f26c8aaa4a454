"""Turns conversations into documents with the base's chat template."""

from typing import Any

from fedmore.experts.errors import DataError
from fedmore.experts.reading.documents import Converse
from fedmore.experts.text.control_tokens import as_text, mark


def chat_template(tokenizer: Any, *, answering: bool = False) -> Converse:
    """Make a function that formats a conversation with the base's template.

    With `answering`, the result ends where the model's answer begins. Control tokens of the
    template are marked (`fedmore.experts.text.control_tokens`); one in a turn counts as text. The
    function raises `DataError` if the base has no template or the template refuses.
    """
    from jinja2 import TemplateError

    def converse(turns: list[dict[str, Any]]) -> str:
        if not getattr(tokenizer, "chat_template", None):
            raise DataError(
                "a conversation, but the base has no chat template; write it as text, "
                "or take a base that has one"
            )
        try:
            plain = as_text(tokenizer, turns)
            text = tokenizer.apply_chat_template(
                plain, tokenize=False, add_generation_prompt=answering
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise DataError(f"the base's chat template refuses it: {error}") from error
        return mark(tokenizer, str(text))

    return converse
