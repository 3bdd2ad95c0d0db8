/* The mining search of one thread: which nonce makes the hash of a header small enough. */

#define word uint32_t
#define LANES 1
#define FN(name) name##_one
#define INLINE static
#include "search.h"
#undef INLINE
#undef FN
#undef LANES
#undef word

/* Where the nonce lies in the second block that is hashed. */
enum { NONCE_IN_BLOCK = 1 + AT_NONCE - BLOCK };

/* See search.h; for instruction sets that hash blocks faster than words. */
static int search_blocks(
    const struct isa *isa, const uint32_t state[8], const uint32_t second[16], uint64_t base,
    uint32_t most)
{
    uint8_t blocks[MOST_LANES][BLOCK];
    const uint8_t *at[MOST_LANES];
    uint32_t states[8 * MOST_LANES];
    const unsigned lanes = isa->lanes;
    for (unsigned i = 0; i < lanes; i++) {
        at[i] = blocks[i];
        for (int j = 0; j < 16; j++)
            write_be32(blocks[i] + 4 * j, second[j]);
        write_be64(blocks[i] + NONCE_IN_BLOCK, base);
    }
    for (unsigned last = 0; last < 256; last += lanes) {
        for (unsigned i = 0; i < lanes; i++) {
            blocks[i][NONCE_IN_BLOCK + 7] = (uint8_t)(last + i);
            for (unsigned j = 0; j < 8; j++)
                states[j * lanes + i] = state[j];
        }
        isa->blocks(states, at, 1);
        for (unsigned i = 0; i < lanes; i++)
            if (states[i] <= most)
                return 1;
    }
    return 0;
}

/* Find the lowest nonce in first..last, both included, for which SHA-256(0x00 || header), read as
 * a big-endian integer, is at most the target; return whether there is one. What stands in the
 * header as nonce does not matter. */
static int find_nonce(
    const struct isa *isa, const uint8_t *header, uint64_t first, uint64_t last,
    const uint8_t *target, uint64_t *found)
{
    uint8_t message[2 * BLOCK] = {PREFIX_LEAF};
    uint32_t state[8] = {SHA256_START}, w[16], second[16], goal[8];
    memcpy(message + 1, header, AT_NONCE);
    message[1 + HEADER] = 0x80;
    write_be64(message + sizeof message - 8, (1 + HEADER) * 8);
    for (int j = 0; j < 16; j++) {
        w[j] = read_be32(message + 4 * j);
        second[j] = read_be32(message + BLOCK + 4 * j);
    }
    for (int j = 0; j < 8; j++)
        goal[j] = read_be32(target + 4 * j);
    compress_one(state, w);

    for (uint64_t base = first & ~(uint64_t)255;; base += 256) {
        const int promising = isa->search ? isa->search(state, second, base, goal[0])
                                          : search_blocks(isa, state, second, base, goal[0]);
        for (unsigned i = 0; promising && i < 256; i++) {
            const uint64_t nonce = base | i;
            if (nonce >= first && nonce <= last && serves_one(state, second, nonce, goal)) {
                *found = nonce;
                return 1;
            }
        }
        if (last - base < 256)
            return 0;
    }
}
