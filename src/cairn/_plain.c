/* cairn._plain: the Python twin is `cairn.encoding._are_plain`, which is the definition. */

#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <math.h>

/* Whether `value` and all in it, `depth` levels down at most, is plain; see cairn.encoding. No
 * Python code runs meanwhile, so that nothing changes under our hands. */
static int is_plain(PyObject *value, Py_ssize_t depth)
{
    if (value == Py_None || PyUnicode_CheckExact(value) || PyLong_CheckExact(value) ||
        PyBool_Check(value))
        return 1;
    if (depth == 0)
        return 0;
    if (PyDict_CheckExact(value)) {
        Py_ssize_t at = 0;
        PyObject *key, *member;
        while (PyDict_Next(value, &at, &key, &member))
            if (!is_plain(member, depth - 1))
                return 0;
        return 1;
    }
    if (PyList_CheckExact(value)) {
        const Py_ssize_t size = PyList_Size(value);
        for (Py_ssize_t i = 0; i < size; i++)
            if (!is_plain(PyList_GetItem(value, i), depth - 1))
                return 0;
        return 1;
    }
    if (PyFloat_CheckExact(value)) {
        const double number = PyFloat_AsDouble(value), size = fabs(number);
        return size >= 1e-4 && size < 1e15 && number != floor(number);
    }
    return 0;
}

static PyObject *are_plain(PyObject *self, PyObject *args)
{
    PyObject *values;
    Py_ssize_t depth;
    (void)self;
    if (!PyArg_ParseTuple(args, "O!n:are_plain", &PyList_Type, &values, &depth))
        return NULL;
    return PyBool_FromLong(is_plain(values, depth + 1));
}

static PyMethodDef METHODS[] = {
    {"are_plain", are_plain, METH_VARARGS,
     "are_plain(values: list, depth: int) -> bool: see cairn.encoding."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot SLOTS[] = {{0, NULL}};

static struct PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT,
    .m_name = "cairn._plain",
    .m_methods = METHODS,
    .m_slots = SLOTS,
};

PyMODINIT_FUNC PyInit__plain(void)
{
    return PyModuleDef_Init(&MODULE);
}
