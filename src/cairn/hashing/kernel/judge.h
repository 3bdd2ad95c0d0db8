/* The checks of a block that need no more hashing: rules 1 to 10 and 12 of cairn.core.rules, each
 * comparing a field with what was found. Compiled once per instruction set. */

enum { HEADER = 104 };

/* Blocks that are taken at a time, so that their columns stay in the cache; and judged in one. */
enum { CHUNK = 1024, EIGHT = 8 };

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
    int single; /* all blocks have one entry */
    int follows; /* the block before the first lies before it */
    const uint64_t *offsets; /* of the first one's entries on */
    const size_t *firsts; /* block i has the entries [firsts[i], firsts[i + 1]) */
    const uint8_t *leaves; /* where a block's entries begin, the root of all of them */
    const uint8_t *hashes; /* as computed */
    uint64_t most_count, most_size;
    int mined; /* bits and nonce are somebody else's to judge */
    uint8_t *flags;
};

/* A hash, to be compared in one. */
typedef uint64_t quad __attribute__((vector_size(DIGEST), aligned(1), may_alias));

/* Return whether block i breaks a rule. */
ALWAYS_INLINE int breaks_a_rule(const struct judged *c, size_t i)
{
    const uint8_t *h = c->header + i * HEADER, *hash = c->hash + i * DIGEST;
    const size_t first = c->firsts[i], last = c->firsts[i + 1];
    const uint64_t count = last - first, stored = c->offsets[last] - c->offsets[first];
    const uint64_t timestamp = read_be64(h + AT_TIMESTAMP);
    const uint64_t asked = c->mined ? 0 : UINT64_MAX; /* of bits and nonce: to be zero */
    /* Of version 1, and without bits. */
    const uint64_t kind = (read_be64(h) ^ (uint64_t)1 << 48) & (asked | ~(uint64_t)0xffffffff);
    const uint8_t *root = count ? c->leaves + first * DIGEST : EMPTY_ROOT;
    quad unequal = *(const quad *)(h + AT_ROOT) ^ *(const quad *)root;
    unequal |= *(const quad *)hash ^ *(const quad *)(c->hashes + i * DIGEST);
    uint64_t bad = kind > (uint64_t)RECORD << 32;
    /* The first block of the segment follows nothing that is known here. */
    if (i || c->follows) {
        unequal |= *(const quad *)(h + AT_PREVIOUS) ^ *(const quad *)(hash - DIGEST);
        bad |= timestamp < read_be64(h - HEADER + AT_TIMESTAMP);
    }
    bad |= (unequal[0] | unequal[1]) | (unequal[2] | unequal[3]);
    bad |= kind & 0xffffffffu;
    bad |= (kind != (uint64_t)BATCH << 32) & (count != 1);
    bad |= read_be64(h + AT_INDEX) ^ (c->position + i);
    bad |= timestamp >> 63;
    bad |= read_be64(h + AT_COUNT) ^ (count << 32 | (uint32_t)stored);
    bad |= stored >> 32;
    bad |= read_be64(h + AT_NONCE) & asked;
    bad |= (count > c->most_count) | (stored > c->most_size);
    return bad != 0;
}

/* Return whether all is well with the EIGHT blocks from i on, each a value with one entry. Those
 * that follow nothing known, and times and limits of more than 63 bits, are left to the other. */
ALWAYS_INLINE int eight_good_values(const struct judged *c, size_t i)
{
    const uint8_t *h = c->header + i * HEADER, *hash = c->hash + i * DIGEST;
    const uint8_t *leaf = c->leaves + i * DIGEST, *computed = c->hashes + i * DIGEST;
    uint64_t before = read_be64(h - HEADER + AT_TIMESTAMP);
    quad unequal = {0};
    uint64_t bad = 0, sign = before | c->most_size;
    for (size_t k = 0; k < EIGHT; k++) {
        const uint64_t stored = c->offsets[i + k + 1] - c->offsets[i + k];
        const uint64_t timestamp = read_be64(h + AT_TIMESTAMP);
        unequal |= *(const quad *)(h + AT_PREVIOUS) ^ *(const quad *)(hash - DIGEST);
        unequal |= *(const quad *)(h + AT_ROOT) ^ *(const quad *)leaf;
        unequal |= *(const quad *)hash ^ *(const quad *)computed;
        bad |= read_be64(h) ^ (uint64_t)1 << 48;
        bad |= read_be64(h + AT_INDEX) ^ (c->position + i + k);
        bad |= read_be64(h + AT_COUNT) ^ ((uint64_t)1 << 32) ^ stored;
        bad |= read_be64(h + AT_NONCE);
        sign |= timestamp | (timestamp - before) | (c->most_size - stored);
        __builtin_prefetch((const void *)((uintptr_t)hash + CHUNK * DIGEST), 0, 2);
        before = timestamp;
        h += HEADER;
        hash += DIGEST;
        leaf += DIGEST;
        computed += DIGEST;
    }
    bad |= (unequal[0] | unequal[1]) | (unequal[2] | unequal[3]);
    return !(bad | sign >> 63) && c->most_count;
}

/* Set the flag of each block that breaks a rule, and clear the others. */
ALWAYS_INLINE void judge(const struct judged *judged)
{
    const struct judged c = *judged; /* the compiler must fear that flags lie in the original */
    for (size_t i = 0; i < c.blocks;) {
        if (c.single && (i || c.follows) && c.blocks - i >= EIGHT && eight_good_values(&c, i)) {
            memset(c.flags + i, 0, EIGHT);
            i += EIGHT;
            continue;
        }
        const size_t stop = c.blocks - i < EIGHT ? c.blocks : i + EIGHT;
        for (; i < stop; i++)
            c.flags[i] = (uint8_t)breaks_a_rule(&c, i);
    }
}
