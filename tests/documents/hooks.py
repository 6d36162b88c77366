"""What schemathesis does besides: real ids, a call that is there, and what a refusal may say.

The environment has UNDERTONE_URL, UNDERTONE_USER, UNDERTONE_PASSWORD; UNDERTONE_IDS: for each root
of a path (`/api/v2/me/devices`) an id that exists; and UNDERTONE_SEEN: the file for the HTTP statuses
that valid requests were answered with, by operationName or operationId.
"""

import atexit
import json
import os
from collections import Counter, defaultdict

import requests
import schemathesis

URL = os.environ["UNDERTONE_URL"]
IDS = json.loads(os.environ["UNDERTONE_IDS"])
CALLS = "/api/v2/me/calls"
TARGET = "/api/v2/devices"
MISSING, INVALID = 1, 10

session = requests.Session()
session.auth = (os.environ["UNDERTONE_USER"], os.environ["UNDERTONE_PASSWORD"])
turns = Counter()
seen = defaultdict(set)


@atexit.register
def write_seen():
    with open(os.environ["UNDERTONE_SEEN"], "w", encoding="utf-8") as file:
        json.dump({name: sorted(statuses) for name, statuses in seen.items()}, file)


def every_other(what):
    turns[what] += 1
    return turns[what] % 2 == 0


def call():
    """The id of a call of the user's, made if there is none."""
    calls = session.get(f"{URL}{CALLS}?fields=*").json().get("calls", [])
    if not calls:
        dial = {"operationName": "Dial", "destination": {"phoneNumber": IDS["destination"]}}
        session.post(f"{URL}/api/v2/me/devices/{IDS['/api/v2/me/devices']}/calls", json=dial)
        calls = session.get(f"{URL}{CALLS}?fields=*").json().get("calls", [])
    return calls[0]["id"] if calls else "none"


def is_positive(case):
    return case.meta is None or case.meta.generation.mode.is_positive


@schemathesis.hook
def before_call(context, case, kwargs):
    root = case.operation.path.partition("/{")[0]
    if is_positive(case) and "id" in case.path_parameters:
        case.path_parameters["id"] = call() if root == CALLS else IDS.get(root, "none")
    body = case.body
    if is_positive(case) and isinstance(body, dict) and "targetDeviceUri" in body and every_other("target"):
        body["targetDeviceUri"] = f"{TARGET}/{IDS[TARGET]}"


@schemathesis.hook
def filter_failure(context, failure, case, response):
    """Objects of which a client has named some members are not what the schemas say."""
    is_selection = (case.query or {}).get("fields", "*") not in ("*", ["*"])
    return not (is_selection and response.status_code == 200)


def schema_of(case, name):
    """Of the operation of that name, whatever a name may be here."""
    schemas = case.operation.schema.raw_schema["components"]["schemas"]
    return schemas.get(f"{name}Request", {})


def names_two_devices(body):
    return "targetDeviceUri" in body and "phoneNumber" in body


def has_a_fraction_in_user_data(body):
    """1.0 is an integer to a schema, which can not say how a number is written."""
    data = body.get("userData")
    return isinstance(data, dict) and any(isinstance(value, float) for value in data.values())


@schemathesis.check
def refusals_are_those_of_the_document(ctx, response, case):
    """No schema-valid request is refused for its form, and an operation only as it says."""
    body = case.body if isinstance(case.body, dict) else {}
    if is_positive(case):
        name = body.get("operationName", case.operation.definition.raw["operationId"])
        seen[name].add(response.status_code)
    if response.status_code == 200 or not response.content:
        return
    answer = response.json()
    code = answer["statusCode"]
    if is_positive(case) and not (names_two_devices(body) or has_a_fraction_in_user_data(body)):
        assert code not in (MISSING, INVALID), f"valid, and refused for its form: {answer}"
    if response.status_code == 405:
        allowed = {method.strip() for method in ",".join(response.headers["allow"]).split(",")}
        there_are = {method.upper() for method in case.operation.schema.raw_schema["paths"][case.operation.path]}
        assert allowed - {"HEAD"} == there_are, f"not the methods of the document: {allowed}"
        assert case.method not in allowed, f"{case.method} is refused, and allowed"
        return
    refusals = schema_of(case, body.get("operationName")).get("x-refusals")
    if refusals:
        rows = {(row["status"], row["statusCode"]) for row in refusals}
        assert (response.status_code, code) in rows, f"not in the document: {answer}"
