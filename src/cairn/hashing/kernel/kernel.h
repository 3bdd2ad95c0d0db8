/* What the parts of the kernel share. */

#ifndef CAIRN_KERNEL_H
#define CAIRN_KERNEL_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the kernel is written for little-endian machines; others do without"
#endif

#define ALWAYS_INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

enum { BLOCK = 64, DIGEST = 32, MOST_LANES = 16, MOST_BLOCKS = 1 << 20 };

extern const uint32_t sha256_k[64] __attribute__((visibility("hidden")));

/* One message: SHA-256 of the prefix byte, if any, and `size` bytes goes to `out`. */
struct message {
    const uint8_t *data;
    uint64_t size;
    uint8_t *out;
};

/* The byte before every message: leaves and nodes of RFC 9162, or nothing. */
enum prefix { PREFIX_LEAF = 0x00, PREFIX_NODE = 0x01, PREFIX_NONE = -1 };

/* Messages to be hashed in groups of one message a lane. */
struct work {
    enum prefix prefix;
    /* Listed, `blocks` long each, padding included: */
    const struct message *listed;
    uint64_t blocks;
    /* or, where `listed` is NULL, cuts of `data`, whose digests lie end to end: */
    const uint8_t *data;
    uint64_t size;
    const uint64_t *starts, *stops;
    /* (if they are NULL: from `first` on, `stride` bytes each, end to end) */
    uint64_t first, stride;
    size_t ahead; /* how far after a message what is wanted later lies; 0 for a guess */
    uint8_t *out;
    size_t count; /* messages */
};

struct judged;

/* An instruction set. State words are laid out word by word: word j of lane i is
 * state[j * lanes + i]. */
struct isa {
    const char *name;
    unsigned lanes;
    /* With one lane: while there are fewer messages than this, one after another is faster than
     * most lanes idle. */
    unsigned fewest;
    /* Add `count` blocks at at[0..lanes) to the states. */
    void (*blocks)(uint32_t *state, const uint8_t *const *at, size_t count);
    /* Hash groups of messages, from the first on, as long as the messages of a group have the same
     * number of blocks (at most MOST_BLOCKS) and all these blocks, which are read whole from the
     * prefix byte on, lie in the data; return how many messages that were. Cuts may be any numbers.
     * NULL where groups gain nothing. */
    size_t (*group)(const struct work *work);
    /* The column checks, see screen.h. */
    void (*judge)(const struct judged *judged);
    /* Run `times` compressions of each lane in registers. */
    void (*compress)(uint32_t *state, uint64_t times);
    /* Try 256 nonces, see search.h. NULL where `blocks` does it faster. */
    int (*search)(
        const uint32_t state[8], const uint32_t second[16], unsigned long long base,
        uint32_t most);
};

ALWAYS_INLINE uint32_t read_be32(const uint8_t *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return __builtin_bswap32(value);
}

ALWAYS_INLINE uint64_t read_be64(const uint8_t *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return __builtin_bswap64(value);
}

ALWAYS_INLINE void write_be32(uint8_t *at, uint32_t value)
{
    value = __builtin_bswap32(value);
    memcpy(at, &value, sizeof value);
}

ALWAYS_INLINE void write_be64(uint8_t *at, uint64_t value)
{
    value = __builtin_bswap64(value);
    memcpy(at, &value, sizeof value);
}

#define word uint32_t
#define SHA256_FN(name) name##_one
#define SHA256_INLINE static inline __attribute__((unused))
#include "rounds.h"

#endif
