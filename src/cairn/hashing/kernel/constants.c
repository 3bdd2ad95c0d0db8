/* The round constants as a table. It stands in a file of its own so that no compiler folds it:
 * vector code wants to broadcast them from memory, which costs no arithmetic port. */

#include "kernel.h"

const uint32_t sha256_k[64] = {
    SHA256_CONSTANTS_0, SHA256_CONSTANTS_1, SHA256_CONSTANTS_2, SHA256_CONSTANTS_3,
    SHA256_CONSTANTS_4, SHA256_CONSTANTS_5, SHA256_CONSTANTS_6, SHA256_CONSTANTS_7,
};
