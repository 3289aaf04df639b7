/* Hidden Markov models and Kalman filters. */

#include "common.h"

/* ---- the forward algorithm: logB, logA, start. In probabilities that add up to one, not in logarithms ------- */

/* y = x M for rows of up to 8 vectors; n is a multiple of LANES. */
static inline void times(const double *x, const double *m, long n, double *y) {
    for (long j = 0; j < n; j += 4 * LANES) {
        long width = (n - j) / LANES < 4 ? (n - j) / LANES : 4;
        if (width == 4) {
            vec even[4] = {0}, odd[4] = {0};
            for (long i = 0; i < n; i += 2)
                for (int k = 0; k < 4; k++) {
                    even[k] += x[i] * load(m + i * n + j + k * LANES);
                    odd[k] += x[i + 1] * load(m + (i + 1) * n + j + k * LANES);
                }
            for (int k = 0; k < 4; k++) store(y + j + k * LANES, even[k] + odd[k]);
            continue;
        }
        for (long k = 0; k < width; k++) {
            vec sum = {0};
            for (long i = 0; i < n; i++) sum += x[i] * load(m + i * n + j + k * LANES);
            store(y + j + k * LANES, sum);
        }
    }
}

/* alpha[t] and its scale, and exp(logB[t]) over its largest; the log-likelihood. One row is enough if nothing is kept. */
static double hmm_filter(
    const double *logb, const double *a, const double *start, long n, long k, int kept, double *alpha, double *b, double *c) {
    double total = 0;
    for (long t = 0; t < n; t++) {
        double *now = alpha + (kept ? t * k : t % 2 * k), *before = alpha + (kept ? (t - 1) * k : (t + 1) % 2 * k);
        double *bt = b + (kept ? t * k : 0), top = logb[t * k], scale = 0;
        for (long j = 0; j < k; j++) top = logb[t * k + j] > top ? logb[t * k + j] : top;
        for (long j = 0; j < k; j++) bt[j] = exp(logb[t * k + j] - top);
        if (t) times(before, a, k, now);
        for (long j = 0; j < k; j++) now[j] = (t ? now[j] : start[j]) * bt[j], scale += now[j];
        for (long j = 0; j < k; j++) now[j] *= 1 / scale;
        if (kept) c[t] = 1 / scale;
        total += log(scale) + top;
    }
    return total;
}

EXPORT hmm(ARGUMENTS) {
    long n = SIZE(0, 0), k = SIZE(0, 1);
    double *a_ = malloc((k * k + 4 * k) * sizeof(double)), *start = a_ + k * k, *alpha = start + k, *b = alpha + 2 * k;
    for (long i = 0; i < k * k; i++) a_[i] = exp(ARRAY(1)[i]);
    for (long i = 0; i < k; i++) start[i] = exp(ARRAY(2)[i]);
    RESULT(0)[0] = hmm_filter(ARRAY(0), a_, start, n, k, 0, alpha, b, NULL);
    free(a_);
}

EXPORT hmm_gradient(ARGUMENTS) {
    long n = SIZE(0, 0), k = SIZE(0, 1);
    double *a_ = malloc((2 * k * k + 3 * k + 3 * n * k + n) * sizeof(double)), *turned = a_ + k * k;
    double *start = turned + k * k, *beta = start + k, *spare = beta + k, *alpha = spare + k, *b = alpha + n * k;
    double *w = b + n * k, *c = w + n * k, *of_b = RESULT(1), *of_a = RESULT(2), *of_start = RESULT(3);
    for (long i = 0; i < k; i++) start[i] = exp(ARRAY(2)[i]), beta[i] = 1;
    for (long i = 0; i < k; i++)
        for (long j = 0; j < k; j++) turned[j * k + i] = a_[i * k + j] = exp(ARRAY(1)[i * k + j]);
    RESULT(0)[0] = hmm_filter(ARRAY(0), a_, start, n, k, 1, alpha, b, c);
    for (long t = n - 1; t >= 0; t--) {
        for (long j = 0; j < k; j++) of_b[t * k + j] = alpha[t * k + j] * beta[j];
        if (!t) break;
        for (long j = 0; j < k; j++) w[t * k + j] = b[t * k + j] * beta[j] * c[t];
        times(w + t * k, turned, k, beta);
    }
    memset(of_a, 0, k * k * sizeof(double));
    if (n > 1) dgemm(1, 0, k, k, n - 1, alpha, w + k, 0, of_a);
    for (long i = 0; i < k * k; i++) of_a[i] *= a_[i];
    memcpy(of_start, of_b, k * sizeof(double));
    free(a_);
}

/* ---- a Kalman filter with six states and two observations: y, F, Q, H, R, m0, P0 --------------------------- */

/* Rows are vectors of eight of which six count. P stays symmetric, since Q and P0 are. */
EXPORT kalman6(ARGUMENTS) {
    enum { K = 6 };
    const double *y = ARRAY(0), *f = ARRAY(1), *hh = ARRAY(3), *R = ARRAY(4);
    double turned[K][LANES] = {0}, q[K][LANES] = {0}, p[K][LANES] = {0}, m[LANES] = {0}, total = 0;
    for (int i = 0; i < K; i++) {
        m[i] = ARRAY(5)[i];
        for (int j = 0; j < K; j++) turned[j][i] = f[i * K + j], q[i][j] = ARRAY(2)[i * K + j], p[i][j] = ARRAY(6)[i * K + j];
    }
    vec P[K], F[K], Q[K], mean = load(m);
    for (int i = 0; i < K; i++) P[i] = load(p[i]), F[i] = load(turned[i]), Q[i] = load(q[i]);
    for (long t = 0, n = SIZE(0, 0); t < n; t++) {
        vec fp[K], moved = {0}, h0 = {0}, h1 = {0};
        for (int l = 0; l < K; l++) moved += mean[l] * F[l];
        for (int i = 0; i < K; i++) {
            fp[i] = f[i * K] * P[0];
            for (int l = 1; l < K; l++) fp[i] += f[i * K + l] * P[l];
        }
        for (int i = 0; i < K; i++) {
            P[i] = Q[i];
            for (int l = 0; l < K; l++) P[i] += fp[i][l] * F[l];
        }
        for (int l = 0; l < K; l++) h0 += hh[l] * P[l], h1 += hh[K + l] * P[l];
        double v0 = y[2 * t], v1 = y[2 * t + 1], s00 = R[0], s01 = R[1], s10 = R[2], s11 = R[3];
        for (int l = 0; l < K; l++) {
            v0 -= hh[l] * moved[l], v1 -= hh[K + l] * moved[l];
            s00 += hh[l] * h0[l], s01 += hh[l] * h1[l], s10 += hh[K + l] * h0[l], s11 += hh[K + l] * h1[l];
        }
        double det = s00 * s11 - s01 * s10, over = 1 / det;
        double w0 = (s11 * v0 - s01 * v1) * over, w1 = (s00 * v1 - s10 * v0) * over;
        vec g0 = (s11 * over) * h0 - (s01 * over) * h1, g1 = (s00 * over) * h1 - (s10 * over) * h0;
        mean = moved + h0 * w0 + h1 * w1;
        for (int i = 0; i < K; i++) P[i] -= h0[i] * g0 + h1[i] * g1;
        total += 2 * log(2 * M_PI) + log(det) + v0 * w0 + v1 * w1;
    }
    RESULT(0)[0] = -0.5 * total;
}
