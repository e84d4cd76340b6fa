"""Give a database that fastimd has used the form that the Java server Fast-IM reads.

Messages, groups of users and tokens become JSON strings, as that server writes them; what is one
already stays, and so do order, and times of expiry. Stop every fastimd first, and under systemd
its `fastimd.socket` too, which would start it again.

python to_java.py redis://127.0.0.1:6379/3
"""

import sys

from redis import Redis, RedisError, ResponseError

from fastimd.base.codec import CorruptEntry, unwrap, wrap

BATCH = 1000


def main(url: str) -> None:
    redis = Redis.from_url(url)
    print(convert(redis, "gml:*", rewrap_list), "lists of messages")
    print(convert(redis, "ugs:*", rewrap_set), "sets of groups")
    print(convert(redis, "login:*", rewrap_token), "tokens")


def convert(redis, pattern, rewrap):
    """Rewrap each key; returns how many there are. A key of another type stays as it is."""
    rewrapped = 0
    for key in list(redis.scan_iter(pattern, count=BATCH)):
        expires_in = redis.pttl(key)
        with redis.pipeline(transaction=True) as step:
            try:
                rewrap(redis, step, key)
            except ResponseError as reason:
                print(f"{key!r}: left as it is: {reason}", file=sys.stderr)
                continue
            if expires_in > 0:
                step.pexpire(key, expires_in)
            step.execute()
        rewrapped += 1
    return rewrapped


def rewrap_list(redis, step, key):
    entries = [wrapped(key, entry) for entry in redis.lrange(key, 0, -1)]
    step.delete(key)
    for start in range(0, len(entries), BATCH):
        step.rpush(key, *entries[start : start + BATCH])


def rewrap_set(redis, step, key):
    groups = {wrapped(key, group) for group in redis.smembers(key)}
    step.delete(key)
    if groups:  # else it has just gone
        step.sadd(key, *groups)


def rewrap_token(redis, step, key):
    token = redis.get(key)
    if token is not None:  # it has just expired
        step.set(key, wrapped(key, token))


def wrapped(key, value):
    try:
        return wrap(unwrap(value))
    except CorruptEntry as reason:
        print(f"{key!r}: left as it is: {reason}", file=sys.stderr)
        return value


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        main(sys.argv[1])
    except (RedisError, ValueError) as reason:
        sys.exit(f"to_java.py: {reason}")
