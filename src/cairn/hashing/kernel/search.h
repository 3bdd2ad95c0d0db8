/* The mining search: nonces tried over an abstract word, as many at a time as a word has lanes.
 *
 * A header's nonce is its last 8 bytes. So of the two blocks of SHA-256 that are hashed, the first
 * is the same for all nonces, and of the second only words 8 to 10 differ: the nonce's last byte is
 * the first of word 10, where the padding follows it. Nonces are tried in groups of 256 that differ
 * in that byte alone. Within a group the rounds before word 10, and what the message schedule makes
 * of the other words, are the same in every turn of the loop, and the compiler takes them out of
 * it; of the hash the first word is enough, and the compiler leaves out what does not lead there.
 *
 * Included after rounds.h, with these defined as macros, and left defined:
 *   word          unsigned 32-bit, or a vector of such, as in rounds.h
 *   LANES         how many; divides 256
 *   FN(name)      the name that a function gets for this word; FN(compress) is that of rounds.h
 *   INLINE        what stands before a function
 *
 * It provides, for `state` after the first block and `second`, the sixteen words of the second
 * block with a nonce of zeros,
 *   int FN(search)(const unsigned state[8], const unsigned second[16],
 *                  unsigned long long base, unsigned most)
 *       whether the first word of some hash of the nonces base to base + 255 is at most `most`;
 *       base is a multiple of 256
 * and where a word is one lane, besides,
 *   int FN(serves)(state, second, unsigned long long nonce, const unsigned target[8])
 *       whether the hash is at most the target, both read as big-endian integers.
 */

INLINE int FN(search)(
    const unsigned state[8], const unsigned second[16], unsigned long long base, unsigned most)
{
    const word zero = {0};
    union {
        word all;
        unsigned each[LANES];
    } lanes, over;
    for (unsigned i = 0; i < LANES; i++)
        lanes.each[i] = i << 24;

    /* Bit 31 of a lane stays set while no hash of it begins low enough. It is the borrow of
     * most - hash, made of plain operations, since comparing gives one thing for vectors and
     * another for plain words. */
    over.all = ~zero;
    for (unsigned i = 0; i < 256; i += LANES) {
        word hash[8], w[16];
        for (int j = 0; j < 8; j++)
            hash[j] = zero + state[j];
        for (int j = 0; j < 8; j++)
            w[j] = zero + second[j];
        w[8] = zero + (second[8] | (unsigned)(base >> 40));
        w[9] = zero + (unsigned)(base >> 8);
        w[10] = lanes.all + (i << 24 | 0x00800000u);
        w[11] = w[12] = w[13] = w[14] = zero;
        w[15] = zero + 8 * 105u;
        FN(compress)(hash, w);
        over.all &= (~most & hash[0]) | ((~most | hash[0]) & (most - hash[0]));
    }
    for (int i = 0; i < LANES; i++)
        if (!(over.each[i] >> 31))
            return 1;
    return 0;
}

#if LANES == 1
INLINE int FN(serves)(
    const unsigned state[8],
    const unsigned second[16],
    unsigned long long nonce,
    const unsigned target[8])
{
    unsigned hash[8], w[16];
    for (int i = 0; i < 8; i++)
        hash[i] = state[i];
    for (int i = 0; i < 16; i++)
        w[i] = second[i];
    w[8] |= (unsigned)(nonce >> 40);
    w[9] |= (unsigned)(nonce >> 8);
    w[10] |= (unsigned)nonce << 24;
    FN(compress)(hash, w);
    for (int i = 0; i < 8; i++)
        if (hash[i] != target[i])
            return hash[i] < target[i];
    return 1;
}
#endif
