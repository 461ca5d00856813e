"""Kinds of fields in a manifest that its JSON Schema can judge, so far as a schema can.

What is only told to the schema, readers judge themselves and in their own words (`bundle.integrity`,
`bundle.consistency`).
"""

from __future__ import annotations

from typing import Annotated

import msgspec

SCHEMA_FILE = "docs/bundle-manifest.schema.json"
"""In a checkout: the JSON Schema of manifests."""

# Each part of a path: no separator of any system, no control character, no white space at its ends, no period at the
# last; which leaves neither "" nor "." nor "..".
_INNER = r"[^/\\:\u0000-\u001f\u007f-\u009f\u2028\u2029]*"
_PART = rf"(?:[^\s/\\:]{_INNER})?[^\s/\\:.]"
_PATH = rf"{_PART}(?:/{_PART})*"
_DIGITS = "[0-9a-f]{64}"

BundlePath = Annotated[str, msgspec.Meta(extra_json_schema={"pattern": f"^{_PATH}$", "maxLength": 1024})]
"""A plain path relative to the bundle, with forward slashes."""
OptionalPath = Annotated[str, msgspec.Meta(extra_json_schema={"pattern": f"^(?:{_PATH})?$", "maxLength": 1024})]
"""A path, or nothing."""
Sha256 = Annotated[str, msgspec.Meta(pattern=f"^{_DIGITS}$")]
OptionalSha256 = Annotated[str, msgspec.Meta(extra_json_schema={"pattern": f"^(?:{_DIGITS})?$"})]
"""A hash, or nothing."""
Size = Annotated[int, msgspec.Meta(ge=0)]
Stride = Annotated[int, msgspec.Meta(ge=1)]
Axis = Annotated[int, msgspec.Meta(ge=-1)]
"""A length; -1 where it is free."""
Channel = Annotated[int, msgspec.Meta(extra_json_schema={"minimum": 0, "maximum": 255})]
