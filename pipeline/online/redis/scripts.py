"""The scripts with which Redis compares event timestamps itself, as it writes and deletes rows."""

import re
from collections.abc import Sequence

# ARGV: the field of the event timestamp, and its new value: a serialized Timestamp, whose field 1 is seconds and
# field 2 nanoseconds, both varints of 64 bits. What is no Timestamp is not newer.
_IS_NEWER = """
local function instant(stamp)
    local bytes, fields, at = {stamp:byte(1, -1)}, {0, 0}, 1
    while bytes[at] do
        local field, first, value = bytes[at] / 8, at + 1, 0
        repeat at = at + 1 until bytes[at] < 128
        for i = at, first, -1 do
            local bits = bytes[i] % 128
            value = i == first + 9 and -bits or value * 128 + bits
        end
        fields[field], at = value, at + 1
    end
    return fields[1], fields[2]
end
local seen, newer, s, n = ARGV[2], false, instant(ARGV[2])
local function is_newer(key)
    local stamp = redis.pcall('HGET', key, ARGV[1])
    if stamp ~= seen then
        local ok, s2, n2 = pcall(instant, stamp)
        seen, newer = stamp, ok and (s2 > s or s2 == s and n2 > n)
    end
    return newer
end
"""
# KEYS: the rows, then the names for those that are newer. Returns how many are.
_HOLD = """
local held = 0
for i = 1, #KEYS / 2 do
    if is_newer(KEYS[i]) then
        redis.call('RENAME', KEYS[i], KEYS[#KEYS / 2 + i])
        held = held + 1
    end
end
return held
"""
# KEYS: the names for newer rows, then the rows.
_RELEASE = """
local rows = #KEYS / 2
if redis.call('EXISTS', unpack(KEYS, 1, rows)) > 0 then
    for i = 1, rows do
        if redis.call('EXISTS', KEYS[i]) > 0 then redis.call('RENAME', KEYS[i], KEYS[rows + i]) end
    end
end
"""
# KEYS: a row. ARGV: all that is set in it. Returns 1 where what Redis has is newer, 0 where it is set. What cannot be
# compared, because the key is of another type or a right is missing, is not written either. Nearly every Timestamp has
# whole seconds and 6 bytes: two of those are compared at once, byte by byte, of which the last counts most.
_COMPARE = """
local stamp, tag, a, b, c, d, e, f = redis.pcall('HGET', KEYS[1], ARGV[1]), ARGV[2]:byte(1, 7)
if type(stamp) == 'table' then return stamp end
if stamp then
    local tag2, a2, b2, c2, d2, e2, f2 = stamp:byte(1, 7)
    local same = tag == 8 and tag2 == 8 and e and e2 and not f and not f2
    if same and math.min(a, b, c, d, a2, b2, c2, d2) > 127 and math.max(e, e2) < 128 then
        if (((e2 - e) * 128 + d2 - d) * 128 + c2 - c) * 16384 + (b2 - b) * 128 + a2 - a > 0 then return 1 end
    else
        %s
        if is_newer(KEYS[1]) then return 1 end
    end
end
"""
_WRITE = """
local done = redis.pcall('HSET', KEYS[1], unpack(ARGV))
if type(done) == 'table' then return done end
%s
return 0
"""
# KEYS: the rows. Further ARGV: the other fields to delete. Returns how many had any: a key of another type has none.
_DELETE = """
local deleted = 0
for _, key in ipairs(KEYS) do
    local found = is_newer(key) and 0 or redis.pcall('HDEL', key, ARGV[1], unpack(ARGV, 3))
    if type(found) == 'number' then
        deleted = deleted + math.min(found, 1)
    elseif not found.err:find('WRONGTYPE') then
        return found
    end
end
return deleted
"""

# KEYS: the rows. ARGV: whether to delete, 1 or 0, and every field of the registered views. Returns how many others rows
# have that look like Feast's: 4 bytes, or an event timestamp.
_UNOWNED = """
local owned, count = {}, 0
for i = 2, #ARGV do owned[ARGV[i]] = true end
for _, key in ipairs(KEYS) do
    local found, unowned = redis.pcall('HKEYS', key), {}
    if found.err and not found.err:find('WRONGTYPE') then return found end
    for _, field in ipairs(found) do
        if not owned[field] and (#field == 4 or field:sub(1, 4) == '_ts:') then unowned[#unowned + 1] = field end
    end
    if #unowned > 0 and ARGV[1] == '1' then redis.call('HDEL', key, unpack(unowned)) end
    count = count + #unowned
end
return count
"""


def _script(*parts: str) -> bytes:
    """Return a script without its indentation: Redis hashes the text with each call, and slowly."""
    return re.sub(r"\n\s*", "\n", "".join(parts)).strip().encode()


def write_row(expiry: Sequence[bytes] = (), *, over_newer: bool = False) -> bytes:
    """Return the script that writes a row, and then does `expiry` to its key, such as (b"EXPIRE", b"60")."""
    command, *limit = [f"'{word.decode()}'" for word in expiry] or [""]
    write = _WRITE % (f"redis.call({', '.join([command, 'KEYS[1]', *limit])})" if expiry else "")
    return _script(write) if over_newer else _script(_COMPARE % _IS_NEWER, write)


HOLD_NEWER = _script(_IS_NEWER, _HOLD)
RELEASE_NEWER = _script(_RELEASE)
DELETE_OLDER = _script(_IS_NEWER, _DELETE)
UNOWNED = _script(_UNOWNED)
