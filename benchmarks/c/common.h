/* What all files share: how arguments come, vectors of the machine, and BLAS.

   Every function is `void name(void **a, long **s, void **r)`: the arrays of the arguments, their shapes, and the
   arrays of the results, which the caller has made. A scalar is an array of one number. */

#ifndef COMMON_H
#define COMMON_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT void
#define ARGUMENTS void **a, long **s, void **r
#define ARRAY(i) ((const double *)a[i])
#define ARRAYF(i) ((const float *)a[i])
#define SCALAR(i) (*(const double *)a[i])
#define SIZE(i, d) (s[i][d])
#define RESULT(i) ((double *)r[i])
#define RESULTF(i) ((float *)r[i])

enum { LANES = 8 };
typedef double vec __attribute__((vector_size(8 * LANES), aligned(8), may_alias));
typedef long mask __attribute__((vector_size(8 * LANES)));

static inline vec load(const double *p) { return *(const vec *)p; }
static inline void store(double *p, vec v) { *(vec *)p = v; }
static inline vec spread(double v) { return v - (vec){0}; }
static inline double sum_of(vec v) {
    double total = 0;
    for (int i = 0; i < LANES; i++) total += v[i];
    return total;
}

/* Of Fortran, by pointers that come from SciPy; row-major forms below. */
typedef void gemm(char *, char *, int *, int *, int *, double *, double *, int *, double *, int *, double *, double *, int *);
typedef void gemmf(char *, char *, int *, int *, int *, float *, float *, int *, float *, int *, float *, float *, int *);
extern gemm *blas_dgemm;
extern gemmf *blas_sgemm;

/* c[m, n] = beta c + op(a)[m, k] op(b)[k, n], all row-major; an op that is not 0 is a transposition. */
static inline void dgemm(int at, int bt, int m, int n, int k, const double *a, const double *b, double beta, double *c) {
    double one = 1;
    int lda = at ? m : k, ldb = bt ? k : n;
    blas_dgemm(bt ? "T" : "N", at ? "T" : "N", &n, &m, &k, &one, (double *)b, &ldb, (double *)a, &lda, &beta, c, &n);
}

static inline void sgemm(int at, int bt, int m, int n, int k, const float *a, const float *b, float beta, float *c) {
    float one = 1;
    int lda = at ? m : k, ldb = bt ? k : n;
    blas_sgemm(bt ? "T" : "N", at ? "T" : "N", &n, &m, &k, &one, (float *)b, &ldb, (float *)a, &lda, &beta, c, &n);
}

#endif
