"""`tiercache inspect`: what Redis holds of one key."""

import argparse
import json
import sys
from typing import Any

import redis

from tiercache import CodecError, MsgpackCodec
from tiercache.cli.reach import Unreachable, reached
from tiercache.compression import decompress
from tiercache.keys import check_key
from tiercache.local.record import ERROR, HEADER, MAGIC, NONE, VALUE, unpack
from tiercache.remote.commands import Names, wire_key
from tiercache.signing import bare_record

_EPILOG = """\
examples:
  tiercache inspect redis://localhost:6379/0 item:42 --namespace shop
  tiercache inspect redis://localhost:6379/0 item:42 --namespace shop --json --value

Nothing is changed. The value is shown with --value alone; values of registered classes can't be decoded here.
Exit code 0: a record, a lease or a failure stands there; 1: nothing does; 2: it could not be looked up.
"""
_KINDS = {VALUE: "value", NONE: "None", ERROR: "negative error"}
_COMPRESSIONS = {0: "none", 1: "zlib", 2: "zstd"}
_LARGEST = 32 * 2**20  # bytes of a value that is decoded
_COUNT_KEPT = 60.0  # seconds for which a failure's count outlives its cooldown


def add_command(commands: Any) -> None:
    """Add `inspect` to the commands of an argument parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "inspect",
        help="show what Redis holds of one key",
        description="Show one key's record (its header), lease, waiting processes and failures.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("url", metavar="URL", help="redis://, rediss:// or unix://")
    parser.add_argument("key", metavar="KEY", help="as the program writes it")
    parser.add_argument("--namespace", default="default", metavar="NS", help="the cache's namespace (default)")
    parser.add_argument("--value", action="store_true", help="decode the value and show it, too")
    parser.add_argument("--json", action="store_true", help="as JSON; times in seconds")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    try:
        names, key = Names(options.namespace), wire_key(check_key(options.key))
        with reached(options.url) as client:
            found = {
                "key": options.key,
                "namespace": options.namespace,
                "name": names.value(key),
                "record": _record(client, names.value(key), options.value),
                "lease": _lease(client, names.lease(key)),
                "failure": _failure(client, names.failure(key)),
            }
    except (Unreachable, ValueError) as error:
        print(f"tiercache inspect: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(json.dumps(found, indent=2) if options.json else "\n".join(_lines(found)))
    return 0 if found["record"] or found["lease"] or found["failure"] else 1


def _read(client: redis.Redis, name: str, *commands: tuple[Any, ...]) -> list[Any] | None:
    # What the commands say of a name; None where a foreign type stands under it.
    pipeline = client.pipeline(transaction=False)
    for command in (("PTTL", name), *commands):
        pipeline.execute_command(*command)  # type: ignore[no-untyped-call]
    replies = pipeline.execute(raise_on_error=False)
    for reply in replies:
        if isinstance(reply, redis.ResponseError) and str(reply).startswith("WRONGTYPE"):
            return None
        if isinstance(reply, redis.RedisError):
            raise reply
    return replies


def _record(client: redis.Redis, name: str, with_value: bool) -> dict[str, Any] | None:
    end = _LARGEST if with_value else HEADER.size - 1
    replies = _read(client, name, ("GETRANGE", name, 0, end), ("STRLEN", name))
    if replies is None:
        return {"fault": "a foreign type stands under this name"}
    left, head, size = replies
    if not size:
        return None
    if len(head) < HEADER.size or not head.startswith(MAGIC):
        return {"fault": "what stands there is no record", "bytes": size}
    _, kind, codec, flags, fresh_ms, hard_ms, delta_ms, length, id = HEADER.unpack_from(head)
    remaining = max(0, min(left, hard_ms)) / 1000
    shown = {
        "id": id.hex(),
        "kind": _KINDS.get(kind, f"unknown ({kind})"),
        "bytes": size,
        "payload_bytes": length,
        "codec": "msgpack" if codec == MsgpackCodec.id else codec,
        "compression": _COMPRESSIONS.get(flags & 0x0F, f"unknown ({flags & 0x0F})"),
        "signed": bool(flags & 0x40),
        "soft_invalid": bool(flags & 0x80),
        "fresh": fresh_ms / 1000,
        "hard": hard_ms / 1000,
        "fresh_left": remaining - (hard_ms - fresh_ms) / 1000,
        "remaining": remaining,
        "age": hard_ms / 1000 - remaining,
        "load_time": delta_ms / 1000,
    }
    if size != HEADER.size + length:
        shown["fault"] = "its length is wrong: everybody takes it for absent"
    return shown | ({"value": _value(head)} if with_value else {})


def _value(data: bytes) -> str:
    record = unpack(data)
    if record is None:
        return "not decodable: malformed, or larger than 32 MiB"
    if record.kind == NONE:
        return "None"
    try:
        return repr(MsgpackCodec().decode(decompress(bare_record(record).payload, record.compression, _LARGEST)))
    except CodecError as error:
        return f"not decodable: {error}"


def _lease(client: redis.Redis, name: str) -> dict[str, Any] | None:
    replies = _read(client, name, ("HGETALL", name))
    if replies is None:
        return {"fault": "a foreign type stands under this name"}
    left, fields = replies
    if not fields:
        return None
    return {
        "holder": fields.get(b"t", b"")[:8].hex(),
        "attempt": _text(fields.get(b"n")),
        "left": left / 1000,
        "waiting_processes": sorted(_text(field[2:]) for field in fields if field.startswith(b"w:")),
    }


def _failure(client: redis.Redis, name: str) -> dict[str, Any] | None:
    replies = _read(client, name, ("HGETALL", name))
    if replies is None:
        return {"fault": "a foreign type stands under this name"}
    left, fields = replies
    if not fields:
        return None
    shown = {word: _text(fields.get(word.encode())) for word in ("reason", "type", "message", "count")}
    return shown | {"cooldown_left": max(0.0, left / 1000 - _COUNT_KEPT)}


def _text(data: bytes | None) -> str:
    return (data or b"").decode(errors="replace")[:200]


def _lines(found: dict[str, Any]) -> list[str]:
    lines = [f"key      {found['key']!r} in namespace {found['namespace']}: {found['name']!r}"]
    for part in ("record", "lease", "failure"):
        held = found[part]
        lines.append(f"{part:8s} {'none' if held is None else ''}".rstrip())
        for name, value in (held or {}).items():
            lines.append(f"  {name.replace('_', ' '):18s}{_shown(name, value)}")
    return lines


def _shown(name: str, value: Any) -> str:
    # Whoever writes to Redis chooses texts: what a terminal would obey is written out.
    if isinstance(value, float):
        return f"{value:.3f} s"
    if isinstance(value, list):
        return f"{len(value)}" + "".join(f" {each!r}" for each in value)
    text = value if name == "value" else str(value)
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in str(text))
