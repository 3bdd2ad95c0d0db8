/* The checks of a block that need no hashing any more: rules 1 to 10 and 12 of cairn.core.rules, each
 * comparing a field with what was found. Compiled once per instruction set. */

enum { HEADER = 104 };

enum { AHEAD = 1024 * DIGEST };

/* Where the fields lie in a header; see cairn.core.header. */
enum {
    AT_INDEX = 8,
    AT_PREVIOUS = 16,
    AT_TIMESTAMP = 48,
    AT_COUNT = 56,
    AT_SIZE = 60,
    AT_ROOT = 64,
    AT_NONCE = 96,
};

enum { VALUE = 0, BATCH = 1, RECORD = 2 };

/* SHA-256 of nothing: the root of a tree without leaves. */
static const uint8_t EMPTY_ROOT[DIGEST] = {
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24,
    0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
};

/* Blocks to be judged by their columns. */
struct judged {
    size_t blocks;
    uint64_t position; /* of the first */
    const uint8_t *header, *hash; /* the first one's */
    int follows; /* the block before the first lies before it */
    const uint64_t *offsets; /* of the first one's entries on */
    const size_t *firsts; /* block i has the entries [firsts[i], firsts[i + 1]) */
    const uint8_t *leaves; /* where a block's entries begin, the root of all of them */
    const uint8_t *hashes; /* as computed */
    uint64_t most_count, most_size;
    uint8_t *flags;
};

/* A hash, to be compared in one. */
typedef uint64_t quad __attribute__((vector_size(DIGEST), aligned(1), may_alias));

/* Set the flag of each block that breaks a rule, and clear the others. */
ALWAYS_INLINE void judge(const struct judged *judged)
{
    const struct judged c = *judged; /* the compiler must fear that flags lie in the original */
    const uint8_t *h = c.header, *hash = c.hash;
    uint64_t position = c.position;
    /* The first block of the segment follows nothing that is known here. */
    uint64_t before = c.follows ? read_be64(h - HEADER + AT_TIMESTAMP) : 0;
    const uint8_t *link = c.follows ? hash - DIGEST : h + AT_PREVIOUS;
    for (size_t i = 0; i < c.blocks; i++) {
        __builtin_prefetch((const void *)((uintptr_t)hash + AHEAD), 0, 2);
        const size_t first = c.firsts[i], last = c.firsts[i + 1];
        const uint64_t count = last - first, stored = c.offsets[last] - c.offsets[first];
        const uint64_t timestamp = read_be64(h + AT_TIMESTAMP);
        const uint64_t kind = read_be64(h) ^ (uint64_t)1 << 48; /* of version 1 and without bits */
        const uint8_t *root = count ? c.leaves + first * DIGEST : EMPTY_ROOT;
        const quad unequal = (*(const quad *)(h + AT_PREVIOUS) ^ *(const quad *)link) |
                             (*(const quad *)(h + AT_ROOT) ^ *(const quad *)root) |
                             (*(const quad *)hash ^ *(const quad *)(c.hashes + i * DIGEST));
        uint64_t bad = (unequal[0] | unequal[1]) | (unequal[2] | unequal[3]);
        bad |= read_be64(h + AT_INDEX) ^ position;
        bad |= read_be64(h + AT_COUNT) ^ (count << 32 | (uint32_t)stored);
        bad |= stored >> 32;
        bad |= read_be64(h + AT_NONCE);
        bad |= kind & 0xffffffffu;
        bad |= timestamp >> 63;
        bad |= kind > (uint64_t)RECORD << 32;
        bad |= (kind != (uint64_t)BATCH << 32) & (count != 1);
        bad |= (timestamp < before) | (count > c.most_count) | (stored > c.most_size);
        c.flags[i] = bad != 0;
        before = timestamp;
        position++;
        link = hash;
        h += HEADER;
        hash += DIGEST;
    }
}
