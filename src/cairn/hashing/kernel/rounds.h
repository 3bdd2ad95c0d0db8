/* The rounds of SHA-256 (FIPS 180-4), once, over an abstract word.
 *
 * This file includes nothing, so that the same text is compiled by GCC and clang for each
 * instruction set (a word is a vector: a lane per message) and by NVRTC for a CUDA thread (a word
 * is `unsigned int`). It may be included many times, with other words.
 *
 * Before including it, define as macros:
 *   word               unsigned 32-bit, or a vector of such; + & | ^ << >> between words, and
 *                      between a word and a 32-bit constant, work lane by lane
 *   SHA256_FN(name)    the name that function `name` gets for this word
 *   SHA256_INLINE      what stands before a function: "static inline", attributes
 * and where the machine has something better than the definitions below:
 *   SHA256_ROTR(x, n)  x rotated right by the constant n
 *   SHA256_XOR3(x, y, z), SHA256_CH(x, y, z), SHA256_MAJ(x, y, z)
 *   SHA256_K(n, k)     the constant of round n, whose value is the literal k; may be constants[n],
 *                      of the table SHA256_TABLE that must then be defined too
 * All of these are undefined again at the end.
 *
 * It provides
 *   SHA256_FN(compress)(word state[8], word w[16])
 *       adds one block of 16 words, already in the machine's byte order, to the state; w is
 *       destroyed. All indices are constants: both arrays live in registers where there are enough
 *       of them, and words of w known at compile time are folded as far as the compiler can.
 *   SHA256_FN(rounds)(word v[8], word w[16], const int eighth, const unsigned *constants)
 *       does one eighth (0 to 7, a literal) of the rounds of a block: v starts as the state and is
 *       in the end what is to be added to it. For those who do something else in between.
 *   SHA256_START       the 8 words of the initial state, as an initialiser list of constants
 *   SHA256_CONSTANTS_0 to _7
 *                      the 64 round constants, eight each, as an initialiser list
 */

#ifndef SHA256_START
#define SHA256_START \
    0x6a09e667u, 0xbb67ae85u, 0x3c6ef372u, 0xa54ff53au, 0x510e527fu, 0x9b05688cu, 0x1f83d9abu, \
        0x5be0cd19u
/* clang-format off */
#define SHA256_CONSTANTS_0 0x428a2f98u, 0x71374491u, 0xb5c0fbcfu, 0xe9b5dba5u, \
                           0x3956c25bu, 0x59f111f1u, 0x923f82a4u, 0xab1c5ed5u
#define SHA256_CONSTANTS_1 0xd807aa98u, 0x12835b01u, 0x243185beu, 0x550c7dc3u, \
                           0x72be5d74u, 0x80deb1feu, 0x9bdc06a7u, 0xc19bf174u
#define SHA256_CONSTANTS_2 0xe49b69c1u, 0xefbe4786u, 0x0fc19dc6u, 0x240ca1ccu, \
                           0x2de92c6fu, 0x4a7484aau, 0x5cb0a9dcu, 0x76f988dau
#define SHA256_CONSTANTS_3 0x983e5152u, 0xa831c66du, 0xb00327c8u, 0xbf597fc7u, \
                           0xc6e00bf3u, 0xd5a79147u, 0x06ca6351u, 0x14292967u
#define SHA256_CONSTANTS_4 0x27b70a85u, 0x2e1b2138u, 0x4d2c6dfcu, 0x53380d13u, \
                           0x650a7354u, 0x766a0abbu, 0x81c2c92eu, 0x92722c85u
#define SHA256_CONSTANTS_5 0xa2bfe8a1u, 0xa81a664bu, 0xc24b8b70u, 0xc76c51a3u, \
                           0xd192e819u, 0xd6990624u, 0xf40e3585u, 0x106aa070u
#define SHA256_CONSTANTS_6 0x19a4c116u, 0x1e376c08u, 0x2748774cu, 0x34b0bcb5u, \
                           0x391c0cb3u, 0x4ed8aa4au, 0x5b9cca4fu, 0x682e6ff3u
#define SHA256_CONSTANTS_7 0x748f82eeu, 0x78a5636fu, 0x84c87814u, 0x8cc70208u, \
                           0x90befffau, 0xa4506cebu, 0xbef9a3f7u, 0xc67178f2u
/* clang-format on */
#endif

#ifndef SHA256_K
#define SHA256_K(n, k) (k)
#define SHA256_TABLE 0
#endif
#ifndef SHA256_ROTR
#define SHA256_ROTR(x, n) (((x) >> (n)) | ((x) << (32 - (n))))
#endif
#ifndef SHA256_XOR3
#define SHA256_XOR3(x, y, z) ((x) ^ (y) ^ (z))
#endif
#ifndef SHA256_CH
#define SHA256_CH(x, y, z) ((((y) ^ (z)) & (x)) ^ (z))
#endif
#ifndef SHA256_MAJ
#define SHA256_MAJ(x, y, z) (((x) & (y)) | (((x) | (y)) & (z)))
#endif

#define SUM_0(x) SHA256_XOR3(SHA256_ROTR(x, 2), SHA256_ROTR(x, 13), SHA256_ROTR(x, 22))
#define SUM_1(x) SHA256_XOR3(SHA256_ROTR(x, 6), SHA256_ROTR(x, 11), SHA256_ROTR(x, 25))
#define SIGMA_0(x) SHA256_XOR3(SHA256_ROTR(x, 7), SHA256_ROTR(x, 18), (x) >> 3)
#define SIGMA_1(x) SHA256_XOR3(SHA256_ROTR(x, 17), SHA256_ROTR(x, 19), (x) >> 10)

/* Word i of the block becomes word i + 16 of the message schedule. */
#define EXPAND(i) \
    (w[(i)] += SIGMA_0(w[((i) + 1) & 15]) + w[((i) + 9) & 15] + SIGMA_1(w[((i) + 14) & 15]))

#define ROUND(a, b, c, d, e, f, g, h, k, message) \
    { \
        word t = (message) + (k) + h + SHA256_CH(e, f, g) + SUM_1(e); \
        d += t; \
        h = SHA256_MAJ(a, b, c) + SUM_0(a) + t; \
    }

/* Rounds n to n + 7, with words i to i + 7, bring the eight variables back to their places. */
#define ROUNDS(message, n, i, ...) ROUNDS_(message, n, i, __VA_ARGS__)
#define ROUNDS_(message, n, i, k0, k1, k2, k3, k4, k5, k6, k7) \
    ROUND(a, b, c, d, e, f, g, h, SHA256_K((n) + 0, k0), message((i) + 0)) \
    ROUND(h, a, b, c, d, e, f, g, SHA256_K((n) + 1, k1), message((i) + 1)) \
    ROUND(g, h, a, b, c, d, e, f, SHA256_K((n) + 2, k2), message((i) + 2)) \
    ROUND(f, g, h, a, b, c, d, e, SHA256_K((n) + 3, k3), message((i) + 3)) \
    ROUND(e, f, g, h, a, b, c, d, SHA256_K((n) + 4, k4), message((i) + 4)) \
    ROUND(d, e, f, g, h, a, b, c, SHA256_K((n) + 5, k5), message((i) + 5)) \
    ROUND(c, d, e, f, g, h, a, b, SHA256_K((n) + 6, k6), message((i) + 6)) \
    ROUND(b, c, d, e, f, g, h, a, SHA256_K((n) + 7, k7), message((i) + 7))

#define GIVEN(i) w[(i)]

SHA256_INLINE void SHA256_FN(rounds)(
    word v[8], word w[16], const int eighth, const unsigned *constants)
{
    (void)constants; /* for SHA256_K */
    word a = v[0], b = v[1], c = v[2], d = v[3], e = v[4], f = v[5], g = v[6], h = v[7];
    switch (eighth) {
    case 0:
        ROUNDS(GIVEN, 0, 0, SHA256_CONSTANTS_0)
        break;
    case 1:
        ROUNDS(GIVEN, 8, 8, SHA256_CONSTANTS_1)
        break;
    case 2:
        ROUNDS(EXPAND, 16, 0, SHA256_CONSTANTS_2)
        break;
    case 3:
        ROUNDS(EXPAND, 24, 8, SHA256_CONSTANTS_3)
        break;
    case 4:
        ROUNDS(EXPAND, 32, 0, SHA256_CONSTANTS_4)
        break;
    case 5:
        ROUNDS(EXPAND, 40, 8, SHA256_CONSTANTS_5)
        break;
    case 6:
        ROUNDS(EXPAND, 48, 0, SHA256_CONSTANTS_6)
        break;
    case 7:
        ROUNDS(EXPAND, 56, 8, SHA256_CONSTANTS_7)
        break;
    }
    v[0] = a, v[1] = b, v[2] = c, v[3] = d, v[4] = e, v[5] = f, v[6] = g, v[7] = h;
}

SHA256_INLINE void SHA256_FN(compress)(word state[8], word w[16])
{
    word v[8];
    for (int i = 0; i < 8; i++)
        v[i] = state[i];
    SHA256_FN(rounds)(v, w, 0, SHA256_TABLE);
    SHA256_FN(rounds)(v, w, 1, SHA256_TABLE);
    SHA256_FN(rounds)(v, w, 2, SHA256_TABLE);
    SHA256_FN(rounds)(v, w, 3, SHA256_TABLE);
    SHA256_FN(rounds)(v, w, 4, SHA256_TABLE);
    SHA256_FN(rounds)(v, w, 5, SHA256_TABLE);
    SHA256_FN(rounds)(v, w, 6, SHA256_TABLE);
    SHA256_FN(rounds)(v, w, 7, SHA256_TABLE);
    for (int i = 0; i < 8; i++)
        state[i] += v[i];
}

#undef GIVEN
#undef ROUNDS_
#undef ROUNDS
#undef ROUND
#undef EXPAND
#undef SIGMA_1
#undef SIGMA_0
#undef SUM_1
#undef SUM_0
#undef SHA256_MAJ
#undef SHA256_CH
#undef SHA256_XOR3
#undef SHA256_ROTR
#undef SHA256_K
#undef SHA256_TABLE
#undef SHA256_INLINE
#undef SHA256_FN
#undef word
