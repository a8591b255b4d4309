"""The OpenAPI document is self-contained."""

from __future__ import annotations

import json

from serving.gateway.api import openapi


def test_the_openapi_document_names_what_exists() -> None:
    document = openapi.document()
    references = [part.split('"')[0] for part in json.dumps(document).split('"$ref": "#/components/schemas/')[1:]]
    assert set(references) <= set(document["components"]["schemas"])
