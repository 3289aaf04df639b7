/* A step of Runge and Kutta's method for predators and prey, and its reverse, for scalars or vectors: REAL.

   x' = a x - b x y, y' = d x y - c y. Included once for each REAL, so there is no guard. */

struct NAMED(rates) {
    REAL a, b, c, d;
};

static inline void NAMED(slope)(REAL x, REAL y, const struct NAMED(rates) * p, REAL *u, REAL *v) {
    *u = x * (p->a - p->b * y);
    *v = y * (p->d * x - p->c);
}

static inline void NAMED(step)(REAL *x, REAL *y, double h, const struct NAMED(rates) * p) {
    REAL u1, v1, u2, v2, u3, v3, u4, v4;
    NAMED(slope)(*x, *y, p, &u1, &v1);
    NAMED(slope)(*x + h / 2 * u1, *y + h / 2 * v1, p, &u2, &v2);
    NAMED(slope)(*x + h / 2 * u2, *y + h / 2 * v2, p, &u3, &v3);
    NAMED(slope)(*x + h * u3, *y + h * v3, p, &u4, &v4);
    *x += h / 6 * (u1 + 2 * (u2 + u3) + u4);
    *y += h / 6 * (v1 + 2 * (v2 + v3) + v4);
}

/* From cotangents of a slope to those of the point, and to those of the rates, which add up. */
static inline void NAMED(pull_slope)(
    REAL x, REAL y, REAL gu, REAL gv, const struct NAMED(rates) * p, struct NAMED(rates) * of, REAL *gx, REAL *gy) {
    REAL ux = gu * x, vy = gv * y;
    *gx = gu * (p->a - p->b * y) + p->d * vy;
    *gy = gv * (p->d * x - p->c) - p->b * ux;
    of->a += ux, of->b -= ux * y, of->c -= vy, of->d += vy * x;
}

static inline void NAMED(pull_step)(
    REAL x, REAL y, REAL *gx, REAL *gy, double h, const struct NAMED(rates) * p, struct NAMED(rates) * of) {
    REAL u1, v1, u2, v2, u3, v3, px, py, g = *gx, k = *gy;
    NAMED(slope)(x, y, p, &u1, &v1);
    REAL x2 = x + h / 2 * u1, y2 = y + h / 2 * v1;
    NAMED(slope)(x2, y2, p, &u2, &v2);
    REAL x3 = x + h / 2 * u2, y3 = y + h / 2 * v2;
    NAMED(slope)(x3, y3, p, &u3, &v3);
    REAL x4 = x + h * u3, y4 = y + h * v3;
    NAMED(pull_slope)(x4, y4, h / 6 * g, h / 6 * k, p, of, &px, &py);
    *gx += px, *gy += py;
    NAMED(pull_slope)(x3, y3, h / 3 * g + h * px, h / 3 * k + h * py, p, of, &px, &py);
    *gx += px, *gy += py;
    NAMED(pull_slope)(x2, y2, h / 3 * g + h / 2 * px, h / 3 * k + h / 2 * py, p, of, &px, &py);
    *gx += px, *gy += py;
    NAMED(pull_slope)(x, y, h / 6 * g + h / 2 * px, h / 6 * k + h / 2 * py, p, of, &px, &py);
    *gx += px, *gy += py;
}
