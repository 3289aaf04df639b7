/* Recurrences of a scalar or a few, one at a time or in lanes. */

#include "common.h"

/* ---- AR(2): noise, first, a, b ------------------------------------------------------------------- */

EXPORT ar2(ARGUMENTS) {
    const double *noise = ARRAY(0), p = SCALAR(2), q = SCALAR(3);
    double y2 = ARRAY(1)[0], y1 = ARRAY(1)[1], total = 0;
    for (long t = 0, n = SIZE(0, 0); t < n; t++) {
        double y = p * y1 + (q * y2 + noise[t]);
        y2 = y1, y1 = y, total += y * y;
    }
    RESULT(0)[0] = total;
}

EXPORT ar2_gradient(ARGUMENTS) {
    const double *noise = ARRAY(0), p = SCALAR(2), q = SCALAR(3);
    long n = SIZE(0, 0);
    double *y = malloc((n + 2) * sizeof(double)), total = 0, g1 = 0, g2 = 0, of_p = 0, of_q = 0;
    y[0] = ARRAY(1)[0], y[1] = ARRAY(1)[1];
    double y2 = y[0], y1 = y[1];
    for (long t = 0; t < n; t++) {
        double new = p * y1 + (q * y2 + noise[t]);
        y2 = y1, y1 = new, y[t + 2] = new, total += new * new;
    }
    for (long t = n - 1; t >= 0; t--) {
        double g = p * g1 + (q * g2 + 2 * y[t + 2]);
        g2 = g1, g1 = g, of_p += g * y[t + 1], of_q += g * y[t];
    }
    free(y);
    RESULT(0)[0] = total, RESULT(1)[0] = of_p, RESULT(2)[0] = of_q;
}

/* ---- GARCH(1,1): r, start, omega, alpha, beta: the recurrence, then what vectorizes ----------------- */

static double garch_variances(const double *x, long n, double s2, double omega, double alpha, double beta, double *out) {
    for (long t = 0; t < n; t++) {
        out[t] = s2;
        s2 = (omega + alpha * (x[t] * x[t])) + beta * s2;
    }
    return s2;
}

EXPORT garch(ARGUMENTS) {
    enum { BLOCK = 512 };
    const double *x = ARRAY(0);
    double s2 = SCALAR(1), total = 0, out[BLOCK];
    for (long start = 0, n = SIZE(0, 0); start < n; start += BLOCK) {
        long k = n - start < BLOCK ? n - start : BLOCK;
        s2 = garch_variances(x + start, k, s2, SCALAR(2), SCALAR(3), SCALAR(4), out);
        for (long t = 0; t < k; t++) total += log(out[t]) + x[start + t] * x[start + t] / out[t];
    }
    RESULT(0)[0] = 0.5 * total;
}

EXPORT garch_gradient(ARGUMENTS) {
    const double *x = ARRAY(0), beta = SCALAR(4);
    long n = SIZE(0, 0);
    double *s2 = malloc(2 * n * sizeof(double)), *direct = s2 + n;
    double total = 0, g = 0, of_omega = 0, of_alpha = 0, of_beta = 0;
    garch_variances(x, n, SCALAR(1), SCALAR(2), SCALAR(3), beta, s2);
    for (long t = 0; t < n; t++) {
        double over = 1 / s2[t], part = x[t] * x[t] * over;
        total += log(s2[t]) + part;
        direct[t] = 0.5 * (1 - part) * over;
    }
    for (long t = n - 1; t > 0; t--) direct[t] = g = direct[t] + beta * g;
    for (long t = 1; t < n; t++) {
        of_omega += direct[t], of_alpha += direct[t] * (x[t - 1] * x[t - 1]), of_beta += direct[t] * s2[t - 1];
    }
    free(s2);
    RESULT(0)[0] = 0.5 * total, RESULT(1)[0] = of_omega, RESULT(2)[0] = of_alpha, RESULT(3)[0] = of_beta;
}

/* ---- EWMA: x, alpha; one column or lanes of them ---------------------------------------------------- */

static void ewma_rows(const double *x, long n, long lanes, double alpha, double *y) {
    double keep = 1 - alpha;
    if (lanes == 1) {
        double level = x[0];
        for (long t = 1; t < n; t++) y[t - 1] = level = alpha * x[t] + keep * level;
        return;
    }
    for (long j = 0; j < lanes; j++) y[j] = alpha * x[lanes + j] + keep * x[j];
    for (long t = 2; t < n; t++) {
        const double *now = x + t * lanes, *before = y + (t - 2) * lanes;
        double *out = y + (t - 1) * lanes;
#pragma GCC ivdep
        for (long j = 0; j < lanes; j++) out[j] = alpha * now[j] + keep * before[j];
    }
}

EXPORT ewma(ARGUMENTS) { ewma_rows(ARRAY(0), SIZE(0, 0), 1, SCALAR(1), RESULT(0)); }

EXPORT ewma_lanes(ARGUMENTS) { ewma_rows(ARRAY(0), SIZE(0, 0), SIZE(0, 1), SCALAR(1), RESULT(0)); }

/* The derivative by alpha goes forward beside the level: one pass, and nothing is kept. */
static void ewma_forward_mode(const double *x, long n, long lanes, double alpha, double *cost, double *of_alpha) {
    double keep = 1 - alpha, total = 0, derivative = 0;
    if (lanes == 1) {
        double level = x[0], moved = 0;
        for (long t = 1; t < n; t++) {
            moved = (x[t] - level) + keep * moved;
            level = alpha * x[t] + keep * level;
            if (t + 1 < n) {
                double e = x[t + 1] - level;
                total += e * e, derivative -= 2 * e * moved;
            }
        }
        *cost = total, *of_alpha = derivative;
        return;
    }
    double level[lanes], moved[lanes], totals[lanes], derivatives[lanes];
    for (long j = 0; j < lanes; j++) level[j] = x[j], moved[j] = totals[j] = derivatives[j] = 0;
    for (long t = 1; t < n; t++) {
        const double *now = x + t * lanes, *next = t + 1 < n ? now + lanes : NULL;
        for (long j = 0; j < lanes; j++) {
            moved[j] = (now[j] - level[j]) + keep * moved[j];
            level[j] = alpha * now[j] + keep * level[j];
        }
        for (long j = 0; next && j < lanes; j++) {
            double e = next[j] - level[j];
            totals[j] += e * e, derivatives[j] -= 2 * e * moved[j];
        }
    }
    for (long j = 0; j < lanes; j++) total += totals[j], derivative += derivatives[j];
    *cost = total, *of_alpha = derivative;
}

EXPORT ewma_gradient(ARGUMENTS) { ewma_forward_mode(ARRAY(0), SIZE(0, 0), 1, SCALAR(1), RESULT(0), RESULT(1)); }

EXPORT ewma_lanes_gradient(ARGUMENTS) {
    ewma_forward_mode(ARRAY(0), SIZE(0, 0), SIZE(0, 1), SCALAR(1), RESULT(0), RESULT(1));
}

/* ---- the logistic map: observed, r, x0 --------------------------------------------------------------- */

EXPORT logistic(ARGUMENTS) {
    double rate = SCALAR(1), x = SCALAR(2), *path = RESULT(0);
    for (long t = 0, n = SIZE(0, 0); t < n; t++) path[t] = x = (rate * x) * (1 - x);
}

EXPORT logistic_gradient(ARGUMENTS) {
    const double *observed = ARRAY(0), rate = SCALAR(1);
    long n = SIZE(0, 0);
    double *path = malloc((n + 1) * sizeof(double)), x = SCALAR(2), cost = 0, g = 0, of_rate = 0;
    path[0] = x;
    for (long t = 0; t < n; t++) {
        path[t + 1] = x = (rate * x) * (1 - x);
        cost += (x - observed[t]) * (x - observed[t]);
    }
    for (long t = n - 1; t >= 0; t--) {
        x = path[t];
        g += 2 * (path[t + 1] - observed[t]);
        of_rate += g * (x * (1 - x));
        g *= rate * (1 - 2 * x);
    }
    free(path);
    RESULT(0)[0] = cost, RESULT(1)[0] = of_rate, RESULT(2)[0] = g;
}

/* ---- Lotka–Volterra by RK4: one pair of scalars, and vectors of them ---------------------------------- */

#define REAL double
#define NAMED(name) name##_one
#include "rk4.h"
#undef REAL
#undef NAMED
#define REAL vec
#define NAMED(name) name##_many
#include "rk4.h"

static const double H = 0.01;

/* observed, x0, y0, a, b, c, d: all states of one trajectory */
EXPORT predators(ARGUMENTS) {
    double x = SCALAR(1), y = SCALAR(2);
    struct rates_one p = {SCALAR(3), SCALAR(4), SCALAR(5), SCALAR(6)};
    for (long t = 0, n = SIZE(0, 1); t < n; t++) {
        step_one(&x, &y, H, &p);
        RESULT(0)[t] = x, RESULT(1)[t] = y;
    }
}

EXPORT predators_gradient(ARGUMENTS) {
    long n = SIZE(0, 1);
    const double *ox = ARRAY(0), *oy = ox + n;
    double *xs = malloc(2 * (n + 1) * sizeof(double)), *ys = xs + n + 1, cost = 0;
    double x = SCALAR(1), y = SCALAR(2);
    struct rates_one p = {SCALAR(3), SCALAR(4), SCALAR(5), SCALAR(6)}, of = {0, 0, 0, 0};
    xs[0] = x, ys[0] = y;
    for (long t = 0; t < n; t++) {
        step_one(&x, &y, H, &p);
        xs[t + 1] = x, ys[t + 1] = y;
        cost += (x - ox[t]) * (x - ox[t]) + (y - oy[t]) * (y - oy[t]);
    }
    double gx = 0, gy = 0;
    for (long t = n - 1; t >= 0; t--) {
        gx += 2 * (xs[t + 1] - ox[t]), gy += 2 * (ys[t + 1] - oy[t]);
        pull_step_one(xs[t], ys[t], &gx, &gy, H, &p, &of);
    }
    free(xs);
    double all[] = {cost, gx, gy, of.a, of.b, of.c, of.d};
    for (int i = 0; i < 7; i++) RESULT(i)[0] = all[i];
}

/* x0, y0, a, b, c, d, steps: the last states of many trajectories, a few vectors at a time */
enum { TOGETHER = 4 };

EXPORT predators_lanes(ARGUMENTS) {
    struct rates_many p = {spread(SCALAR(2)), spread(SCALAR(3)), spread(SCALAR(4)), spread(SCALAR(5))};
    long n = (long)SCALAR(6);
    for (long j = 0, lanes = SIZE(0, 0); j < lanes; j += TOGETHER * LANES) {
        vec x[TOGETHER], y[TOGETHER];
        for (int k = 0; k < TOGETHER; k++) x[k] = load(ARRAY(0) + j + k * LANES), y[k] = load(ARRAY(1) + j + k * LANES);
        for (long t = 0; t < n; t++)
            for (int k = 0; k < TOGETHER; k++) step_many(&x[k], &y[k], H, &p);
        for (int k = 0; k < TOGETHER; k++) store(RESULT(0) + j + k * LANES, x[k]), store(RESULT(1) + j + k * LANES, y[k]);
    }
}

EXPORT predators_lanes_gradient(ARGUMENTS) {
    struct rates_many p = {spread(SCALAR(2)), spread(SCALAR(3)), spread(SCALAR(4)), spread(SCALAR(5))};
    struct rates_many of = {spread(0), spread(0), spread(0), spread(0)};
    long n = (long)SCALAR(6);
    vec cost = spread(0), (*kept)[2] = malloc((n + 1) * TOGETHER * sizeof *kept);
    for (long j = 0, lanes = SIZE(0, 0); j < lanes; j += TOGETHER * LANES) {
        vec x[TOGETHER], y[TOGETHER];
        for (int k = 0; k < TOGETHER; k++) x[k] = load(ARRAY(0) + j + k * LANES), y[k] = load(ARRAY(1) + j + k * LANES);
        for (long t = 0; t < n; t++)
            for (int k = 0; k < TOGETHER; k++) {
                kept[t * TOGETHER + k][0] = x[k], kept[t * TOGETHER + k][1] = y[k];
                step_many(&x[k], &y[k], H, &p);
            }
        for (int k = 0; k < TOGETHER; k++) cost += x[k] * x[k] + y[k] * y[k], x[k] *= 2, y[k] *= 2;
        for (long t = n - 1; t >= 0; t--)
            for (int k = 0; k < TOGETHER; k++)
                pull_step_many(kept[t * TOGETHER + k][0], kept[t * TOGETHER + k][1], &x[k], &y[k], H, &p, &of);
        for (int k = 0; k < TOGETHER; k++) store(RESULT(1) + j + k * LANES, x[k]), store(RESULT(2) + j + k * LANES, y[k]);
    }
    free(kept);
    RESULT(0)[0] = sum_of(cost);
    RESULT(3)[0] = sum_of(of.a), RESULT(4)[0] = sum_of(of.b), RESULT(5)[0] = sum_of(of.c), RESULT(6)[0] = sum_of(of.d);
}
