"""
The arithmetic of gcra.py once more, in Lua, where a server that instances share does it in one step.

Every script is `CLOCK` and a body. Time is the server's own, so that instances need not agree on theirs: seconds since
2026-01-01 00:00 UTC, a midnight, since a double then holds tenths of a microsecond. No script takes the time as an
argument; the tests put another text in the place of `CLOCK` and compare the bodies with gcra.py, number by number.

    KEYS   for each charge: its bucket (a hash: r t b u d, as in `Bucket`), its leases (a sorted set by their ends)
    every key has an expiry, from its first write on
"""

from typing import Final

from proxy.store.gcra import DAY_S, MINUTE_S, SLACK_S
from proxy.store.lane import Script

#: The beginning of the scripts' time, in seconds of Unix.
EPOCH: Final = 20_454 * DAY_S

#: A lease whose owner does not renew it ends after so long.
LEASE_S: Final = 30

#: Arbitrary: a bucket that has run empty is forgotten so much later.
SPARE_MS: Final = 10_000

# Without `replicate_commands` a Redis up to 6.2 that was told to replicate scripts as they stand
# (lua-replicate-commands no) refuses to write after TIME. Since 7.0 it does nothing (redis.io, EVAL introduction).
CLOCK: Final = f"""
if redis.replicate_commands then redis.replicate_commands() end
local time = redis.call('TIME')
local now = (tonumber(time[1]) - {EPOCH}) + tonumber(time[2]) / 1000000
"""

_SHARED: Final = f"""
local today = math.floor(now / {DAY_S})
local function text(number) return string.format('%.17g', number) end
local function keep(key, ends)
  local ms = math.max(math.ceil((ends - now) * 1000), 0) + {SPARE_MS}
  if redis.call('PTTL', key) < ms then redis.call('PEXPIRE', key, ms) end
end
"""

#: ARGV: tokens, lease, and for each charge the six numbers of `NUMBERS`.
DECIDE: Final = (
    _SHARED
    + f"""
local tokens, lease = tonumber(ARGV[1]), ARGV[2]
local admits, found = 1, {{}}
for i = 1, #KEYS / 2 do
  local a = 2 + (i - 1) * 6
  local c = {{request_s = tonumber(ARGV[a + 1]), depth_s = tonumber(ARGV[a + 2]), per_minute = tonumber(ARGV[a + 3]),
    token_s = tonumber(ARGV[a + 4]), per_day = tonumber(ARGV[a + 5]), most = tonumber(ARGV[a + 6]), running = 0}}
  local bucket = redis.call('HMGET', KEYS[2 * i - 1], 'r', 't', 'b', 'u', 'd')
  c.r = math.max((tonumber(bucket[1] or now)) - now, 0)
  c.t = math.max((tonumber(bucket[2] or now)) - now, 0)
  c.b = tonumber(bucket[3] or 0)
  c.u = 0
  if bucket[5] and tonumber(bucket[5]) == today then c.u = tonumber(bucket[4]) end
  if c.most > 0 then
    redis.call('ZREMRANGEBYSCORE', KEYS[2 * i], '-inf', text(now))
    c.running = redis.call('ZCARD', KEYS[2 * i])
  end
  if (c.request_s > 0 and c.r + c.request_s - c.depth_s > {SLACK_S!r})
    or (c.per_minute > 0 and (tokens > c.per_minute or c.t + tokens * c.token_s - {MINUTE_S!r} > {SLACK_S!r}))
    or (c.per_day > 0 and c.u + tokens > c.per_day)
    or (c.most > 0 and c.running >= c.most) then admits = 0 end
  found[i] = c
end
local reply = {{admits, text(now)}}
for i, c in ipairs(found) do
  local key, t_end = KEYS[2 * i - 1], 0
  if admits == 1 then
    local ends = now
    if c.request_s > 0 then
      ends = now + c.r + c.request_s
      redis.call('HSET', key, 'r', text(ends))
    end
    if c.per_minute > 0 then
      t_end = now + c.t + tokens * c.token_s
      ends = math.max(ends, t_end)
      redis.call('HSET', key, 't', text(t_end))
    end
    if c.per_day > 0 then
      ends = math.max(ends, (today + 1) * {DAY_S})
      redis.call('HSET', key, 'u', text(c.u + tokens), 'd', today)
    end
    if c.request_s > 0 or c.per_minute > 0 or c.per_day > 0 then keep(key, ends) end
    if c.most > 0 then
      redis.call('ZADD', KEYS[2 * i], text(now + {LEASE_S}), lease)
      keep(KEYS[2 * i], now + {LEASE_S})
    end
  end
  for _, number in ipairs({{c.r, c.t, c.u, c.running, t_end, c.b}}) do reply[#reply + 1] = text(number) end
end
return reply
"""
)

#: KEYS: the buckets. ARGV: charged, used, and for each charge token_s, per_day, and the three numbers of its `Mark`.
SETTLE: Final = (
    _SHARED
    + """
local charged, used = tonumber(ARGV[1]), tonumber(ARGV[2])
for i, key in ipairs(KEYS) do
  local a = 2 + (i - 1) * 5
  local token_s, per_day = tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2])
  local mark_end, mark_back, mark_day = tonumber(ARGV[a + 3]), tonumber(ARGV[a + 4]), tonumber(ARGV[a + 5])
  local bucket = redis.call('HMGET', key, 't', 'b', 'u', 'd')
  local t, back = tonumber(bucket[1] or now), tonumber(bucket[2] or 0)
  local level, ends = math.max(t - now, 0), now
  if token_s > 0 and used > charged then
    ends = now + level + (used - charged) * token_s
    redis.call('HSET', key, 't', text(ends))
  elseif token_s > 0 then
    local behind, left = back - mark_back, 0
    if behind >= 0 then left = mark_end - behind - now end
    local give = math.min((charged - used) * token_s, left, level)
    if give > 0 then redis.call('HSET', key, 't', text(t - give), 'b', text(back + give)) end
  end
  if per_day > 0 and bucket[4] and tonumber(bucket[4]) == mark_day then
    redis.call('HSET', key, 'u', text(math.max(0, tonumber(bucket[3]) + used - charged)))
  end
  if ends > now then keep(key, ends) end
end
return 1
"""
)

#: KEYS: sets of leases. ARGV: for each the lease that is to go on.
RENEW: Final = (
    _SHARED
    + f"""
for i, key in ipairs(KEYS) do
  redis.call('ZADD', key, text(now + {LEASE_S}), ARGV[i])
  keep(key, now + {LEASE_S})
end
return 1
"""
)

DECIDE_SCRIPT: Final = Script(CLOCK + DECIDE)
SETTLE_SCRIPT: Final = Script(CLOCK + SETTLE)
RENEW_SCRIPT: Final = Script(CLOCK + RENEW)
