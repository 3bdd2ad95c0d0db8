/* cairn.hashing._lanes: SHA-256 in bulk. The arguments are checked here; what is called from here
 * needs no Python, and runs without the GIL. Buffers must not change meanwhile for the answer to
 * mean anything, but whatever changes, nothing outside them is touched. */

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdlib.h>

#include "kernel.h"
#include "judge.h"
#include "nonce.h"
#include "isas.h"
#include "messages.h"
#include "screen.h"

/* Of the module: what this CPU can do. Asked once, since a virtual machine answers slowly. */
struct state {
    int usable[ISA_COUNT];
    const struct isa *single; /* what hashes one message alone fastest */
};

static int module_exec(PyObject *module)
{
    struct state *state = PyModule_GetState(module);
    state->single = &ISAS[ISA_COUNT - 1].isa;
    for (int i = 0; i < ISA_COUNT; i++)
        state->usable[i] = ISAS[i].supported();
#if defined(__x86_64__)
    if (has_sha())
        state->single = &SINGLE_SHA;
#endif
    return 0;
}

static const struct isa *single_isa(PyObject *module)
{
    return ((const struct state *)PyModule_GetState(module))->single;
}

/* Return what finishes the last few messages of `isa`. */
static const struct isa *finisher(PyObject *module, const struct isa *isa)
{
    return isa->lanes == 1 ? isa : single_isa(module);
}

static const struct isa *find_isa(PyObject *module, const char *name)
{
    const struct state *state = PyModule_GetState(module);
    for (int i = 0; i < ISA_COUNT; i++)
        if (strcmp(ISAS[i].isa.name, name) == 0 && state->usable[i])
            return &ISAS[i].isa;
    PyErr_Format(PyExc_ValueError, "this CPU or build has no instruction set called %s", name);
    return NULL;
}

static PyObject *py_available(PyObject *self, PyObject *unused)
{
    const struct state *state = PyModule_GetState(self);
    (void)unused;
    PyObject *names = PyList_New(0);
    for (int i = 0; names && i < ISA_COUNT; i++) {
        if (!state->usable[i])
            continue;
        PyObject *name = PyUnicode_FromString(ISAS[i].isa.name);
        if (!name || PyList_Append(names, name) < 0)
            Py_CLEAR(names);
        Py_XDECREF(name);
    }
    PyObject *tuple = names ? PyList_AsTuple(names) : NULL;
    Py_XDECREF(names);
    return tuple;
}

static int aligned(const Py_buffer *view)
{
    return (uintptr_t)view->buf % 8 == 0;
}

static PyObject *hash_cuts(PyObject *self, PyObject *args, const char *format, int raw)
{
    const char *name;
    Py_buffer data, starts, stops, out;
    if (!PyArg_ParseTuple(args, format, &name, &data, &starts, &stops, &out))
        return NULL;
    PyObject *result = NULL;
    const struct isa *isa = find_isa(self, name);
    if (!isa)
        goto end;
    const size_t n = (size_t)starts.len / 8;
    if (starts.len % 8 || starts.len != stops.len || !aligned(&starts) || !aligned(&stops) ||
        out.len % DIGEST || (size_t)out.len / DIGEST != n) {
        PyErr_SetString(
            PyExc_ValueError, "starts and stops are n aligned int64 each, out is 32 n bytes");
        goto end;
    }
    int good;
    Py_BEGIN_ALLOW_THREADS
    struct batch batch;
    batch_start(
        &batch, isa, finisher(self, isa), raw ? PREFIX_NONE : PREFIX_LEAF, data.buf,
        (uint64_t)data.len);
    good = batch_cuts(&batch, starts.buf, stops.buf, 0, 0, n, out.buf);
    batch_end(&batch);
    Py_END_ALLOW_THREADS
    if (good)
        result = Py_NewRef(Py_None);
    else
        PyErr_SetString(PyExc_ValueError, "requires 0 <= start <= stop <= length of data");
end:
    PyBuffer_Release(&data);
    PyBuffer_Release(&starts);
    PyBuffer_Release(&stops);
    PyBuffer_Release(&out);
    return result;
}

static PyObject *py_leaf_hashes(PyObject *self, PyObject *args)
{
    return hash_cuts(self, args, "sy*y*y*w*:leaf_hashes", 0);
}

static PyObject *py_sha256(PyObject *self, PyObject *args)
{
    return hash_cuts(self, args, "sy*y*y*w*:sha256", 1);
}

static PyObject *py_node_hashes(PyObject *self, PyObject *args)
{
    const char *name;
    Py_buffer children, out;
    if (!PyArg_ParseTuple(args, "sy*w*:node_hashes", &name, &children, &out))
        return NULL;
    PyObject *result = NULL;
    const struct isa *isa = find_isa(self, name);
    if (!isa)
        goto end;
    if (children.len % (2 * DIGEST) || children.len != 2 * out.len) {
        PyErr_SetString(PyExc_ValueError, "children are 64 n bytes, out is 32 n bytes");
        goto end;
    }
    Py_BEGIN_ALLOW_THREADS
    const size_t n = (size_t)out.len / DIGEST;
    struct batch batch;
    batch_start(
        &batch, isa, finisher(self, isa), PREFIX_NODE, children.buf, (uint64_t)children.len);
    batch_cuts(&batch, NULL, NULL, 0, 2 * DIGEST, n, out.buf);
    batch_end(&batch);
    Py_END_ALLOW_THREADS
    result = Py_NewRef(Py_None);
end:
    PyBuffer_Release(&children);
    PyBuffer_Release(&out);
    return result;
}

/* Link n headers, each to the hash of the one before. */
static void link_headers(
    const struct isa *single, uint8_t *headers, size_t n, const uint8_t *previous, uint8_t *out)
{
    static const uint32_t start[8] = {SHA256_START};
    uint8_t block[2 * BLOCK] = {PREFIX_LEAF};
    const uint8_t *const at = block;
    block[1 + HEADER] = 0x80;
    write_be64(block + sizeof block - 8, (1 + HEADER) * 8);
    for (size_t i = 0; i < n; i++) {
        uint32_t state[8];
        uint8_t *header = headers + i * HEADER;
        memcpy(header + AT_PREVIOUS, previous, DIGEST);
        memcpy(block + 1, header, HEADER);
        memcpy(state, start, sizeof state);
        single->blocks(state, &at, 2);
        for (int j = 0; j < 8; j++)
            write_be32(out + i * DIGEST + 4 * j, state[j]);
        previous = out + i * DIGEST;
    }
}

static PyObject *py_link(PyObject *self, PyObject *args)
{
    Py_buffer headers, previous, out;
    if (!PyArg_ParseTuple(args, "w*y*w*:link", &headers, &previous, &out))
        return NULL;
    PyObject *result = NULL;
    const size_t n = (size_t)out.len / DIGEST;
    if (previous.len != DIGEST || out.len % DIGEST || headers.len % HEADER ||
        (size_t)headers.len / HEADER != n) {
        PyErr_SetString(
            PyExc_ValueError, "headers are 104 n bytes, previous_hash is 32, out is 32 n bytes");
        goto end;
    }
    Py_BEGIN_ALLOW_THREADS
    link_headers(single_isa(self), headers.buf, n, previous.buf, out.buf);
    Py_END_ALLOW_THREADS
    result = Py_NewRef(Py_None);
end:
    PyBuffer_Release(&headers);
    PyBuffer_Release(&previous);
    PyBuffer_Release(&out);
    return result;
}

static PyObject *py_screen(PyObject *self, PyObject *args)
{
    const char *name;
    PyObject *start, *most_count, *most_size;
    int mined;
    Py_buffer headers, hashes, data, offsets, flags;
    if (!PyArg_ParseTuple(
            args, "sOy*y*y*y*OOiw*:screen", &name, &start, &headers, &hashes, &data, &offsets,
            &most_count, &most_size, &mined, &flags))
        return NULL;
    PyObject *result = NULL;
    const struct isa *isa = find_isa(self, name);
    if (!isa)
        goto end;
    struct columns columns = {
        .start = PyLong_AsUnsignedLongLong(start),
        .n = (size_t)flags.len,
        .headers = headers.buf,
        .hashes = hashes.buf,
        .data = data.buf,
        .size = (uint64_t)data.len,
        .offsets = offsets.buf,
        .mined = mined,
        .flags = flags.buf,
    };
    if (PyErr_Occurred())
        goto end;
    columns.most_count = PyLong_AsUnsignedLongLong(most_count);
    if (PyErr_Occurred())
        goto end;
    columns.most_size = PyLong_AsUnsignedLongLong(most_size);
    if (PyErr_Occurred())
        goto end;
    if (headers.len % HEADER || (size_t)headers.len / HEADER != columns.n ||
        hashes.len % DIGEST || (size_t)hashes.len / DIGEST != columns.n || offsets.len == 0 ||
        offsets.len % 8 || !aligned(&offsets)) {
        PyErr_SetString(
            PyExc_ValueError,
            "headers are 104 n bytes, hashes 32 n, flags n; offsets are aligned, m + 1 of 8 bytes");
        goto end;
    }
    columns.m = (size_t)offsets.len / 8 - 1;
    int done;
    Py_BEGIN_ALLOW_THREADS
    done = screen(isa, finisher(self, isa), &columns);
    Py_END_ALLOW_THREADS
    result = done < 0 ? PyErr_NoMemory() : PyBool_FromLong(done);
end:
    PyBuffer_Release(&headers);
    PyBuffer_Release(&hashes);
    PyBuffer_Release(&data);
    PyBuffer_Release(&offsets);
    PyBuffer_Release(&flags);
    return result;
}

static PyObject *py_compress(PyObject *self, PyObject *args)
{
    const char *name;
    PyObject *number;
    if (!PyArg_ParseTuple(args, "sO:compress", &name, &number))
        return NULL;
    const struct isa *isa = find_isa(self, name);
    const uint64_t times = isa ? PyLong_AsUnsignedLongLong(number) : 0;
    if (PyErr_Occurred())
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    uint32_t state[8 * MOST_LANES] = {0};
    isa->compress(state, times);
    /* The state is wanted, for all that the compiler knows. */
    __asm__ volatile("" : : "r"(state) : "memory");
    Py_END_ALLOW_THREADS
    return PyLong_FromUnsignedLongLong(times * isa->lanes);
}

static PyObject *py_search(PyObject *self, PyObject *args)
{
    const char *name;
    PyObject *low, *high;
    Py_buffer header, target;
    if (!PyArg_ParseTuple(args, "sy*OOy*:search", &name, &header, &low, &high, &target))
        return NULL;
    PyObject *result = NULL;
    const struct isa *isa = find_isa(self, name);
    const uint64_t first = isa ? PyLong_AsUnsignedLongLong(low) : 0;
    const uint64_t last = PyErr_Occurred() ? 0 : PyLong_AsUnsignedLongLong(high);
    if (PyErr_Occurred())
        goto end;
    if (header.len != HEADER || target.len != DIGEST || first > last) {
        PyErr_SetString(
            PyExc_ValueError, "a header has 104 bytes, a target 32; requires first <= last");
        goto end;
    }
    int done;
    uint64_t found;
    Py_BEGIN_ALLOW_THREADS
    done = find_nonce(isa, header.buf, first, last, target.buf, &found);
    Py_END_ALLOW_THREADS
    result = done ? PyLong_FromUnsignedLongLong(found) : Py_NewRef(Py_None);
end:
    PyBuffer_Release(&header);
    PyBuffer_Release(&target);
    return result;
}

static PyMethodDef METHODS[] = {
    {"available", py_available, METH_NOARGS,
     "available()\n--\n\nThe instruction sets that this CPU runs, best first."},
    {"leaf_hashes", py_leaf_hashes, METH_VARARGS,
     "leaf_hashes(isa, data, starts, stops, out)\n--\n\n"
     "Row i of out becomes SHA-256(0x00 || data[starts[i]:stops[i]])."},
    {"sha256", py_sha256, METH_VARARGS,
     "sha256(isa, data, starts, stops, out)\n--\n\n"
     "Row i of out becomes SHA-256(data[starts[i]:stops[i]])."},
    {"node_hashes", py_node_hashes, METH_VARARGS,
     "node_hashes(isa, children, out)\n--\n\n"
     "Row i of out becomes SHA-256(0x01 || children[64 * i:64 * (i + 1)])."},
    {"link", py_link, METH_VARARGS,
     "link(headers, previous_hash, out)\n--\n\n"
     "Write each header's previous_hash in place, and the hashes to out."},
    {"screen", py_screen, METH_VARARGS,
     "screen(isa, start, headers, hashes, data, offsets, most_count, most_size, mined, flags)"
     "\n--\n\n"
     "Set the flag of each block that breaks a rule; False if the segment is not regular. With\n"
     "mined, bits and nonce are not looked at."},
    {"search", py_search, METH_VARARGS,
     "search(isa, header, first, last, target)\n--\n\n"
     "The lowest nonce of first..last with SHA-256(0x00 || header) <= target, or None."},
    {"compress", py_compress, METH_VARARGS,
     "compress(isa, times)\n--\n\n"
     "Compress registers only, that often in each lane; return how many compressions that is."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot SLOTS[] = {{Py_mod_exec, module_exec}, {0, NULL}};

static PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT,
    .m_name = "cairn.hashing._lanes",
    .m_doc = "SHA-256 in bulk; see cairn.hashing.lanes.",
    .m_size = sizeof(struct state),
    .m_methods = METHODS,
    .m_slots = SLOTS,
};

PyMODINIT_FUNC PyInit__lanes(void)
{
    return PyModuleDef_Init(&MODULE);
}
