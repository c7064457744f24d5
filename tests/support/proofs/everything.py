"""All endpoints whose fields are proved, in the order of docs/api.md."""

from proofs.chat import chat, completions
from proofs.messages import messages
from proofs.others import (
    config,
    conversations,
    decisions,
    detokenize,
    embeddings,
    load_lora,
    tgi,
    tgi_parameters,
    tgi_stream,
    tokenize,
    unload_lora,
)
from proofs.responses import responses

ENDPOINTS = [
    *(chat, completions, responses, conversations, messages, embeddings, decisions),
    *(tgi, tgi_stream, tgi_parameters, tokenize, detokenize),
    *(load_lora, unload_lora, config),
]
