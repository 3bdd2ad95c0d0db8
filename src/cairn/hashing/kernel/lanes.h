/* SHA-256 of LANES messages at once, a lane each. Included once per instruction set, with
 *   LANES       4, 8 or 16
 *   FN(name)    the name that a function or type gets for this instruction set
 *   TARGET      the attribute that turns the instruction set on
 *   BSWAP(x)    a vector of words with the bytes of each reversed
 *   KEEP(x, mask, other)
 *               x & mask | other
 * and those of rounds.h that the machine does better. All are undefined again at the end.
 */

typedef uint32_t FN(word) __attribute__((vector_size(4 * LANES)));
/* The same anywhere in memory. */
typedef uint32_t FN(loose) __attribute__((vector_size(4 * LANES), aligned(1), may_alias));

#define word FN(word)
#define SHA256_FN FN
#define SHA256_INLINE TARGET ALWAYS_INLINE
#define SHA256_K(n, k) constants[n]
#define SHA256_TABLE sha256_k
#include "rounds.h"
#define word FN(word)
#define INLINE TARGET ALWAYS_INLINE
#define SHUFFLE __builtin_shufflevector

/* Halves of two vectors interleaved within each 128 bits, and whole 128-bit quarters. */
#if LANES == 16
#define LOW_32(a, b) \
    SHUFFLE(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29)
#define HIGH_32(a, b) \
    SHUFFLE(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31)
#define LOW_64(a, b) SHUFFLE(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29)
#define HIGH_64(a, b) \
    SHUFFLE(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31)
#define QUARTERS_01(a, b) \
    SHUFFLE(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23)
#define QUARTERS_23(a, b) \
    SHUFFLE(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31)
#define QUARTERS_02(a, b) \
    SHUFFLE(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27)
#define QUARTERS_13(a, b) \
    SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31)
#elif LANES == 8
#define LOW_32(a, b) SHUFFLE(a, b, 0, 8, 1, 9, 4, 12, 5, 13)
#define HIGH_32(a, b) SHUFFLE(a, b, 2, 10, 3, 11, 6, 14, 7, 15)
#define LOW_64(a, b) SHUFFLE(a, b, 0, 1, 8, 9, 4, 5, 12, 13)
#define HIGH_64(a, b) SHUFFLE(a, b, 2, 3, 10, 11, 6, 7, 14, 15)
#define LOW_128(a, b) SHUFFLE(a, b, 0, 1, 2, 3, 8, 9, 10, 11)
#define HIGH_128(a, b) SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15)
#else
#define LOW_32(a, b) SHUFFLE(a, b, 0, 4, 1, 5)
#define HIGH_32(a, b) SHUFFLE(a, b, 2, 6, 3, 7)
#define LOW_64(a, b) SHUFFLE(a, b, 0, 1, 4, 5)
#define HIGH_64(a, b) SHUFFLE(a, b, 2, 3, 6, 7)
#endif

/* Transpose the four words in each 128 bits of four vectors. */
INLINE void FN(turn_4)(word r[4])
{
    word a = LOW_32(r[0], r[1]), b = HIGH_32(r[0], r[1]);
    word c = LOW_32(r[2], r[3]), d = HIGH_32(r[2], r[3]);
    r[0] = LOW_64(a, c);
    r[1] = HIGH_64(a, c);
    r[2] = LOW_64(b, d);
    r[3] = HIGH_64(b, d);
}

/* Blocks of LANES messages are loaded and turned, so that word j of message i comes to lane i of
 * w[j], in two passes of four parts each, which are put between the rounds of the blocks before:
 * there the shuffles fill gaps, after them they would be waited for. */

/* Where the blocks lie: at at[i] + from. If `end`, what is past the end of a message, of size[i]
 * bytes from at[i] on, is replaced by its padding but for the length. */
struct FN(source) {
    const uint8_t *const *at;
    size_t from;
    const uint32_t *size;
    int end;
    size_t ahead; /* what lies so many bytes further on will be wanted later */
};

/* First pass, part 0 to 3. */
INLINE void FN(load)(word w[16], const struct FN(source) *s, const int part)
{
    const int column = 4 * part / LANES * LANES, row = 4 * part % LANES;
    word *r = w + 4 * part;
    UNROLL
    for (int i = 0; i < 4; i++) {
        const uint8_t *at = s->at[row + i] + s->from + 4 * column;
        r[i] = *(const FN(loose) *)at;
        if (column == 0)
            __builtin_prefetch((const void *)((uintptr_t)at + s->ahead), 0, 2);
    }
    if (s->end)
        UNROLL
        for (int i = 0; i < 4; i++) {
            const int64_t past = (int64_t)(s->from + BLOCK) - s->size[row + i];
            const size_t k = (size_t)(past < 0 ? 0 : past) + 4 * (size_t)column;
            const word keep = *(const FN(loose) *)(ending.keep + k);
            r[i] = KEEP(r[i], keep, *(const FN(loose) *)(ending.pad + k));
        }
    UNROLL
    for (int i = 0; i < 4; i++)
        r[i] = BSWAP(r[i]);
    FN(turn_4)(r);
}

/* Second pass, part 0 to 3. */
INLINE void FN(turn)(word r[16], const int i)
{
#if LANES == 16
    word a = QUARTERS_01(r[i], r[i + 4]), b = QUARTERS_01(r[i + 8], r[i + 12]);
    word c = QUARTERS_23(r[i], r[i + 4]), d = QUARTERS_23(r[i + 8], r[i + 12]);
    r[i] = QUARTERS_02(a, b);
    r[i + 4] = QUARTERS_13(a, b);
    r[i + 8] = QUARTERS_02(c, d);
    r[i + 12] = QUARTERS_13(c, d);
#elif LANES == 8
    word a = r[i], b = r[i + 4], c = r[i + 8], d = r[i + 12];
    r[i] = LOW_128(a, b);
    r[i + 4] = HIGH_128(a, b);
    r[i + 8] = LOW_128(c, d);
    r[i + 12] = HIGH_128(c, d);
#else
    (void)r, (void)i;
#endif
}

/* Load the first block, with nothing to put it between. */
INLINE void FN(first)(word w[16], const struct FN(source) *s)
{
    for (int i = 0; i < 4; i++)
        FN(load)(w, s, i);
    for (int i = 0; i < 4; i++)
        FN(turn)(w, i);
}

/* Add block w to the state, and replace it by the next. */
INLINE void FN(step)(word state[8], word w[16], const struct FN(source) *s)
{
    /* The compiler must not know the table, or it keeps 64 broadcast constants on the stack. */
    const uint32_t *constants = sha256_k;
    __asm__ volatile("" : "+r"(constants));
    word v[8], next[16];
    for (int i = 0; i < 8; i++)
        v[i] = state[i];
    FN(rounds)(v, w, 0, constants);
    FN(load)(next, s, 0);
    FN(rounds)(v, w, 1, constants);
    FN(load)(next, s, 1);
    FN(rounds)(v, w, 2, constants);
    FN(load)(next, s, 2);
    FN(rounds)(v, w, 3, constants);
    FN(load)(next, s, 3);
    FN(rounds)(v, w, 4, constants);
    FN(turn)(next, 0);
    FN(rounds)(v, w, 5, constants);
    FN(turn)(next, 1);
    FN(rounds)(v, w, 6, constants);
    FN(turn)(next, 2);
    FN(rounds)(v, w, 7, constants);
    FN(turn)(next, 3);
    for (int i = 0; i < 8; i++)
        state[i] += v[i];
    for (int i = 0; i < 16; i++)
        w[i] = next[i];
}

/* Write the digest in lane i of `state` to out[i]. */
INLINE void FN(store)(const word state[8], uint8_t *const out[LANES])
{
    word left[4], right[4];
    UNROLL
    for (int i = 0; i < 4; i++) {
        left[i] = BSWAP(state[i]);
        right[i] = BSWAP(state[i + 4]);
    }
    FN(turn_4)(left);
    FN(turn_4)(right);
    UNROLL
    for (int i = 0; i < 4; i++) {
#if LANES == 16
        const word low = SHUFFLE(
            left[i], right[i], 0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
        const word high = SHUFFLE(
            left[i], right[i], 8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
        memcpy(out[i], &low, DIGEST);
        memcpy(out[i + 4], (const char *)&low + DIGEST, DIGEST);
        memcpy(out[i + 8], &high, DIGEST);
        memcpy(out[i + 12], (const char *)&high + DIGEST, DIGEST);
#elif LANES == 8
        const word low = LOW_128(left[i], right[i]), high = HIGH_128(left[i], right[i]);
        memcpy(out[i], &low, DIGEST);
        memcpy(out[i + 4], &high, DIGEST);
#else
        memcpy(out[i], &left[i], DIGEST / 2);
        memcpy(out[i] + DIGEST / 2, &right[i], DIGEST / 2);
#endif
    }
}

/* See struct isa. */
TARGET static void FN(blocks)(uint32_t *memory, const uint8_t *const *at, size_t count)
{
    word state[8], w[16];
    struct FN(source) source = {at, 0, NULL, 0, 8 * BLOCK};
    memcpy(state, memory, sizeof state);
    FN(first)(w, &source);
    while (count--) {
        source.from += count ? BLOCK : 0; /* after the last, that one is loaded again */
        FN(step)(state, w, &source);
    }
    memcpy(memory, state, sizeof state);
}

/* The group that is loaded: where its messages lie, prefix included; where the digests go. */
struct FN(lineup) {
    const uint8_t *at[LANES];
    uint8_t *out[LANES];
    uint32_t size[LANES];
};

/* Line up the group that begins with message `first`; return its blocks, or 0 if it is none. */
TARGET static uint64_t FN(line_up)(
    const struct work *work, size_t first, struct FN(lineup) *group)
{
    const uint64_t before = work->prefix != PREFIX_NONE;
    uint64_t starts[LANES], stops[LANES];
    if (work->count - first < LANES)
        return 0;
    if (work->listed) {
        for (int i = 0; i < LANES; i++) {
            const struct message *m = &work->listed[first + (size_t)i];
            group->at[i] = m->data - before;
            group->out[i] = m->out;
            group->size[i] = (uint32_t)(m->size + before);
        }
        return work->blocks;
    }
    if (work->starts) {
        memcpy(starts, work->starts + first, sizeof starts);
        memcpy(stops, work->stops + first, sizeof stops);
    } else {
        for (int i = 0; i < LANES; i++) {
            starts[i] = work->first + (first + (size_t)i) * work->stride;
            stops[i] = starts[i] + work->stride;
        }
    }
    __asm__ volatile("" : : : "memory"); /* what is checked now is not read again */
    const uint64_t blocks = (stops[0] - starts[0] + before + 8) / BLOCK + 1;
    uint64_t bad = blocks > MOST_BLOCKS;
    for (int i = 0; i < LANES; i++) {
        bad |= starts[i] < before;
        bad |= stops[i] < starts[i];
        bad |= stops[i] > work->size;
        bad |= starts[i] - before + blocks * BLOCK > work->size;
        bad |= ((stops[i] - starts[i] + before + 8) / BLOCK + 1) ^ blocks;
    }
    if (bad)
        return 0;
    for (int i = 0; i < LANES; i++) {
        group->at[i] = work->data + (starts[i] - before);
        group->out[i] = work->out + (first + (size_t)i) * DIGEST;
        group->size[i] = (uint32_t)(stops[i] - starts[i] + before);
    }
    return blocks;
}

/* See struct isa. */
TARGET static size_t FN(group)(const struct work *work)
{
    static const uint32_t start[8] = {SHA256_START};
    const uint32_t prefix = work->prefix == PREFIX_NODE ? 0x01000000u : 0;
    const uint32_t first = work->prefix == PREFIX_NONE ? 0xffffffffu : 0x00ffffffu;
    struct FN(lineup) group;
    struct FN(source) source = {group.at, 0, group.size, 0, work->ahead};
    word state[8], w[16];
    uint8_t *out[LANES];
    size_t done = 0;
    uint64_t block = 0, blocks = FN(line_up)(work, 0, &group);
    if (blocks == 0)
        return 0;
    if (!source.ahead)
        source.ahead = blocks > 16 ? 8 * BLOCK : (size_t)(group.at[LANES - 1] - group.at[0]) * 2;
    source.end = blocks <= 2;
    FN(first)(w, &source);
    for (int j = 0; j < 8; j++)
        state[j] = (word){0} + start[j];
    for (;;) {
        if (block == 0)
            w[0] = KEEP(w[0], (word){0} + first, (word){0} + prefix);
        const int ends = ++block == blocks;
        if (ends) {
            w[15] |= *(const FN(loose) *)group.size << 3;
            memcpy(out, group.out, sizeof out);
            block = 0;
            blocks = FN(line_up)(work, done + LANES, &group);
            if (blocks == 0) /* Then what is loaded is not used, but must be there. */
                for (int i = 0; i < LANES; i++)
                    group.at[i] = (const uint8_t *)sha256_k;
        }
        source.from = block * BLOCK;
        source.end = blocks && block + 2 >= blocks;
        FN(step)(state, w, &source);
        if (ends) {
            FN(store)(state, out);
            done += LANES;
            if (blocks == 0)
                return done;
            for (int j = 0; j < 8; j++)
                state[j] = (word){0} + start[j];
        }
    }
}

/* See struct isa. */
TARGET static void FN(judge)(const struct judged *judged)
{
    judge(judged);
}

/* See struct isa. */
TARGET static void FN(times)(uint32_t *memory, uint64_t times)
{
    word state[8], w[16];
    memcpy(state, memory, sizeof state);
    for (int i = 0; i < 16; i++)
        w[i] = state[i & 7];
    while (times--)
        FN(compress)(state, w);
    memcpy(memory, state, sizeof state);
}

#include "search.h"

#undef LOW_32
#undef HIGH_32
#undef LOW_64
#undef HIGH_64
#undef LOW_128
#undef HIGH_128
#undef QUARTERS_01
#undef QUARTERS_23
#undef QUARTERS_02
#undef QUARTERS_13
#undef SHUFFLE
#undef INLINE
#undef BSWAP
#undef KEEP
#undef word
#undef TARGET
#undef FN
#undef LANES
