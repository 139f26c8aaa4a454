"""Conversations as documents: through the chat template of the base."""

from typing import Any

from fedmore.experts.errors import DataError
from fedmore.experts.reading.documents import Converse
from fedmore.experts.text.control_tokens import as_text, mark


def chat_template(tokenizer: Any, *, answering: bool = False) -> Converse:
    """A function that writes a conversation as the base's template does.

    With `answering` up to where the model has its say.

    The control tokens that the template writes are marked (`fedmore.experts.text.control_tokens`);
    a turn that holds one is text. The function raises `DataError` if the base has no template,
    or the template refuses.
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
