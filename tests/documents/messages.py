"""Holds messages and bodies against the schemas of the documents.

Usage: python3 messages.py OPENAPI ASYNCAPI TRANSCRIPT...

Every message of the transcripts, each `{"channel": …, "data": …}`, must be one of its channel's;
every example of either document must be what its schema says. Prints how many there were of each
messageType and operationName.
"""

import json
import sys
from collections import Counter

from jsonschema import Draft202012Validator


def read(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


openapi, asyncapi = read(sys.argv[1]), read(sys.argv[2])
seen = Counter()


def validator(document, schema):
    """Of one schema of a document, or of a reference to one."""
    return Draft202012Validator({"components": document["components"], **schema})


def messages(value):
    """Every message anywhere in a transcript."""
    if isinstance(value, dict):
        if "channel" in value and "data" in value:
            yield value
        else:
            for part in value.values():
                yield from messages(part)
    elif isinstance(value, list):
        for part in value:
            yield from messages(part)


def payloads(channel):
    """The payload schemas of a channel's messages, by name."""
    names = channel["messages"]
    return {name: validator(asyncapi, asyncapi["components"]["messages"][name]["payload"]) for name in names}


channels = {channel["address"]: payloads(channel) for channel in asyncapi["channels"].values()}
for path in sys.argv[3:]:
    for message in messages(read(path)):
        data = message["data"]
        channels[message["channel"]][data["messageType"]].validate(data)
        seen[data["messageType"]] += 1

for name, message in asyncapi["components"]["messages"].items():
    for example in message["examples"]:
        validator(asyncapi, message["payload"]).validate(example["payload"])

for path, item in openapi["paths"].items():
    for method, operation in item.items():
        bodies = [operation["requestBody"]] if "requestBody" in operation else []
        for holder in [*bodies, *operation["responses"].values()]:
            for content in holder.get("content", {}).values():
                for name, example in content.get("examples", {}).items():
                    validator(openapi, content["schema"]).validate(example["value"])
                    seen[example["value"].get("operationName", "refusal")] += 1

for name, schema in openapi["components"]["schemas"].items():
    for example in schema.get("examples", []):
        validator(openapi, schema).validate(example)
        # What it says is required is required.
        for member in schema["required"]:
            less = {key: value for key, value in example.items() if key != member}
            assert not validator(openapi, schema).is_valid(less), (name, member)

print(json.dumps(seen))
