// Rules of random ops. A sample y of a distribution with parameters t and cumulative distribution function F moves with
// t so that F(y; t) stays: dy/dt = -(dF/dt) / (dF/dy) (Figurnov et al., Implicit Reparameterization Gradients, 2018).
#include "csrc/rules/rule.h"

namespace symgrad {
namespace {

// Alpha broadcasts against the sample from the right.
V Gamma(const Op& o, const V& a) {
  const V y = o.out(), dy = o.dy();
  const DType dtype = y.dtype() == DType::kDouble ? DType::kDouble : DType::kFloat;
  return sum_to(dy * cast_like(op("RandomGammaGrad", cast(a, dtype), cast(y, dtype)), y), a);
}

V NormalCdf(const V& z) { return 0.5 * op("Erfc", -0.70710678118654752 * z); }

// F = (N(z) - N(l)) / (N(h) - N(l)) with z, l and h the standardised sample, lower and upper bound. Mean and deviation
// shift and stretch the sample, as in TensorFlow's sampler; that they shift and stretch the bounds too is not counted.
Grads TruncatedNormalGrad(const Op& o, const Input& deviations) {
  const V mean = IN(means), deviation = deviations, lower = IN(minvals), upper = IN(maxvals);
  const V y = o.out(), dy = o.dy();
  const V z = (y - mean) / deviation, l = (lower - mean) / deviation, h = (upper - mean) / deviation;
  const V below = NormalCdf(z) - NormalCdf(l), above = NormalCdf(h) - NormalCdf(z), total = below + above;
  const V dlower = mul_no_nan(exp(0.5 * (square(z) - square(l))), above / total);
  const V dupper = mul_no_nan(exp(0.5 * (square(z) - square(h))), below / total);
  return only(IN(means), sum_to(dy, mean), deviations, sum_to(dy * z, deviation), IN(minvals),
              sum_to(dy * dlower, lower), IN(maxvals), sum_to(dy * dupper, upper));
}

// What was drawn can't be told from values, and drawn again it is another.
Grads DrawnOnce(const Op& o) {
  return o.unsupported(
      "its choice is made anew whenever it runs: choose with tf.gather, by tf.random.shuffle or the "
      "like of indices, or with a stateless op");
}

// clang-format off
constexpr Rule kRules[] = {
    // Samples that no parameter moves: of a fixed distribution, or discrete.
    NO_GRAD(Multinomial) NO_GRAD(NonDeterministicInts)
    NO_GRAD(RandomIndexShuffle) NO_GRAD(RandomPoisson) NO_GRAD(RandomPoissonV2)
    NO_GRAD(RandomStandardNormal) NO_GRAD(RandomUniform) NO_GRAD(RandomUniformInt) NO_GRAD(StatefulRandomBinomial)
    NO_GRAD(StatefulStandardNormal) NO_GRAD(StatefulStandardNormalV2) NO_GRAD(StatefulTruncatedNormal)
    NO_GRAD(StatefulUniform) NO_GRAD(StatefulUniformFullInt) NO_GRAD(StatefulUniformInt) NO_GRAD(StatelessMultinomial)
    NO_GRAD(StatelessRandomBinomial) NO_GRAD(StatelessRandomGetAlg) NO_GRAD(StatelessRandomGetKeyCounter)
    NO_GRAD(StatelessRandomGetKeyCounterAlg) NO_GRAD(StatelessRandomNormal) NO_GRAD(StatelessRandomNormalV2)
    NO_GRAD(StatelessRandomPoisson) NO_GRAD(StatelessRandomUniform) NO_GRAD(StatelessRandomUniformFullInt)
    NO_GRAD(StatelessRandomUniformFullIntV2) NO_GRAD(StatelessRandomUniformInt) NO_GRAD(StatelessRandomUniformIntV2)
    NO_GRAD(StatelessRandomUniformV2) NO_GRAD(StatelessTruncatedNormal)
    NO_GRAD(StatelessTruncatedNormalV2) NO_GRAD(TruncatedNormal)

    // Candidates for sampled losses.
    NO_GRAD(AllCandidateSampler) NO_GRAD(ComputeAccidentalHits) NO_GRAD(FixedUnigramCandidateSampler)
    NO_GRAD(LearnedUnigramCandidateSampler) NO_GRAD(LogUniformCandidateSampler)
    NO_GRAD(ThreadUnsafeUnigramCandidateSampler) NO_GRAD(UniformCandidateSampler)

    ONLY(RandomGamma, alpha, Gamma(o, IN(alpha)))
    ONLY(StatelessRandomGammaV2, alpha, Gamma(o, IN(alpha)))
    ONLY(StatelessRandomGammaV3, alpha, Gamma(o, IN(alpha)))
    RULE(StatelessParameterizedTruncatedNormal, return TruncatedNormalGrad(o, IN(stddevs));)
    RULE(ParameterizedTruncatedNormal, return TruncatedNormalGrad(o, IN(stdevs));)

    // Rows in another order. The same shuffle of their numbers says which.
    RULE(StatelessShuffle, const V order = o.like("StatelessShuffle", range(0, dim(x, 0)), IN(key), IN(counter), IN(alg));
         return {gather(dy, invert_permutation(order))};)
    {"RandomShuffle", DrawnOnce},
    {"RandomCrop", DrawnOnce},
};
// clang-format on
SYMGRAD_REGISTER(kRules)

}  // namespace
}  // namespace symgrad
