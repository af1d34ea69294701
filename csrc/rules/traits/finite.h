// What is known of values when building: where they may be infinite or NaN, and of what sign they are.
//
// A program may compute what it has no use for: where(x > 0, sqrt(x), 0). Then the cotangent of sqrt is zero where its
// partial is infinite or NaN, and zero times that must be zero (`times` and `over` of rule.h). Products that can't meet
// such a value are plain ones, so that nothing is paid for those.
#pragma once

#include "csrc/rules/op.h"

namespace symgrad {

// Sure to be > 0, >= 0, or no zero, if it is not NaN.
bool Positive(const V& x);
bool NonNegative(const V& x);
bool NonZero(const V& x);

// Whether the derivative of x is zero where x is, as that of a square: zero is a minimum there. A function with a
// vertical tangent at zero, such as the square root, then takes zero for its partial: the norm's subgradient.
bool Flat(const V& x);

}  // namespace symgrad
