/* SHA-256 by the x86 SHA instructions, of one stream or of two side by side: one alone waits
 * for the latency of each round. */

#define SHA_TARGET __attribute__((target("sha,ssse3,sse4.1")))

/* Add `count` blocks at at[0..streams) to the states, laid out as struct isa says. */
SHA_TARGET ALWAYS_INLINE void sha_run(
    uint32_t *memory, const uint8_t *const *at, size_t count, const unsigned streams)
{
    const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
    __m128i abef[2], cdgh[2], w[2][4], saved_abef[2], saved_cdgh[2];
    for (unsigned s = 0; s < streams; s++) {
        const uint32_t *v = memory + s;
        const unsigned n = streams;
        abef[s] = _mm_set_epi32((int)v[0], (int)v[n], (int)v[4 * n], (int)v[5 * n]);
        cdgh[s] = _mm_set_epi32((int)v[2 * n], (int)v[3 * n], (int)v[6 * n], (int)v[7 * n]);
    }
    for (size_t from = 0; from < count * BLOCK; from += BLOCK) {
        for (unsigned s = 0; s < streams; s++) {
            saved_abef[s] = abef[s];
            saved_cdgh[s] = cdgh[s];
            UNROLL
            for (int i = 0; i < 4; i++) {
                const __m128i *part = (const __m128i *)(const void *)(at[s] + from + 16 * i);
                w[s][i] = _mm_shuffle_epi8(_mm_loadu_si128(part), swap);
            }
        }
        UNROLL
        for (int r = 0; r < 16; r++) {
            const __m128i k = _mm_loadu_si128((const __m128i *)(const void *)(sha256_k + 4 * r));
            for (unsigned s = 0; s < streams; s++) {
                __m128i *now = &w[s][r & 3], *next = &w[s][(r + 1) & 3];
                const __m128i sum = _mm_add_epi32(*now, k);
                cdgh[s] = _mm_sha256rnds2_epu32(cdgh[s], abef[s], sum);
                if (r >= 3 && r < 15) {
                    const __m128i seven = _mm_alignr_epi8(*now, w[s][(r + 3) & 3], 4);
                    *next = _mm_sha256msg1_epu32(*next, w[s][(r + 2) & 3]);
                    *next = _mm_sha256msg2_epu32(_mm_add_epi32(*next, seven), *now);
                }
                abef[s] = _mm_sha256rnds2_epu32(abef[s], cdgh[s], _mm_shuffle_epi32(sum, 0x0e));
            }
        }
        for (unsigned s = 0; s < streams; s++) {
            abef[s] = _mm_add_epi32(abef[s], saved_abef[s]);
            cdgh[s] = _mm_add_epi32(cdgh[s], saved_cdgh[s]);
        }
    }
    for (unsigned s = 0; s < streams; s++) {
        uint32_t *v = memory + s;
        const unsigned n = streams;
        v[0] = (uint32_t)_mm_extract_epi32(abef[s], 3);
        v[n] = (uint32_t)_mm_extract_epi32(abef[s], 2);
        v[2 * n] = (uint32_t)_mm_extract_epi32(cdgh[s], 3);
        v[3 * n] = (uint32_t)_mm_extract_epi32(cdgh[s], 2);
        v[4 * n] = (uint32_t)_mm_extract_epi32(abef[s], 1);
        v[5 * n] = (uint32_t)_mm_extract_epi32(abef[s], 0);
        v[6 * n] = (uint32_t)_mm_extract_epi32(cdgh[s], 1);
        v[7 * n] = (uint32_t)_mm_extract_epi32(cdgh[s], 0);
    }
}

SHA_TARGET static void blocks_sha_1(uint32_t *state, const uint8_t *const *at, size_t count)
{
    sha_run(state, at, count, 1);
}

SHA_TARGET static void blocks_sha_2(uint32_t *state, const uint8_t *const *at, size_t count)
{
    sha_run(state, at, count, 2);
}

/* Messages in registers would make no difference: these instructions leave the loads free. */
static void times_sha(uint32_t *state, uint64_t times)
{
    static const uint8_t zeros[64 * BLOCK];
    const uint8_t *const at[2] = {zeros, zeros};
    for (uint64_t count; times; times -= count) {
        count = times < 64 ? times : 64;
        blocks_sha_2(state, at, count);
    }
}
