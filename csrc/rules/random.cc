// Rules of random ops. A sample y of a distribution with parameters t and cumulative distribution function F moves with
// t so that F(y; t) stays: dy/dt = -(dF/dt) / (dF/dy) (Figurnov et al., Implicit Reparameterization Gradients, 2018).
#include "csrc/rules/rule.h"

namespace symgrad {
namespace {

// Alpha broadcasts against the sample from the right.
V Gamma(const Op& o, int alpha) {
  const V a = o.in(alpha), y = o.out(), dy = o.dy();
  const DType dtype = y.dtype() == DType::kDouble ? DType::kDouble : DType::kFloat;
  return sum_to(dy * cast_like(op("RandomGammaGrad", cast(a, dtype), cast(y, dtype)), y), a);
}

V NormalCdf(const V& z) { return 0.5 * op("Erfc", -0.70710678118654752 * z); }

// F = (N(z) - N(l)) / (N(h) - N(l)) with z, l and h the standardised sample, lower and upper bound. Mean and deviation
// shift and stretch the sample, as in TensorFlow's sampler; that they shift and stretch the bounds too is not counted.
Grads TruncatedNormalGrad(const Op& o) {
  const V mean = o.in(2), deviation = o.in(3), y = o.out(), dy = o.dy();
  const V z = (y - mean) / deviation, l = (o.in(4) - mean) / deviation, h = (o.in(5) - mean) / deviation;
  const V below = NormalCdf(z) - NormalCdf(l), above = NormalCdf(h) - NormalCdf(z), total = below + above;
  const V dlower = mul_no_nan(exp(0.5 * (square(z) - square(l))), above / total);
  const V dupper = mul_no_nan(exp(0.5 * (square(z) - square(h))), below / total);
  return {none,
          none,
          sum_to(dy, mean),
          sum_to(dy * z, deviation),
          sum_to(dy * dlower, o.in(4)),
          sum_to(dy * dupper, o.in(5))};
}

// clang-format off
constexpr Rule kRules[] = {
    // Samples that no parameter moves: of a fixed distribution, discrete, or shuffled.
    NO_GRAD(Multinomial) NO_GRAD(NonDeterministicInts) NO_GRAD(ParameterizedTruncatedNormal) NO_GRAD(RandomCrop)
    NO_GRAD(RandomIndexShuffle) NO_GRAD(RandomPoisson) NO_GRAD(RandomPoissonV2) NO_GRAD(RandomShuffle)
    NO_GRAD(RandomStandardNormal) NO_GRAD(RandomUniform) NO_GRAD(RandomUniformInt) NO_GRAD(StatefulRandomBinomial)
    NO_GRAD(StatefulStandardNormal) NO_GRAD(StatefulStandardNormalV2) NO_GRAD(StatefulTruncatedNormal)
    NO_GRAD(StatefulUniform) NO_GRAD(StatefulUniformFullInt) NO_GRAD(StatefulUniformInt) NO_GRAD(StatelessMultinomial)
    NO_GRAD(StatelessRandomBinomial) NO_GRAD(StatelessRandomGetAlg) NO_GRAD(StatelessRandomGetKeyCounter)
    NO_GRAD(StatelessRandomGetKeyCounterAlg) NO_GRAD(StatelessRandomNormal) NO_GRAD(StatelessRandomNormalV2)
    NO_GRAD(StatelessRandomPoisson) NO_GRAD(StatelessRandomUniform) NO_GRAD(StatelessRandomUniformFullInt)
    NO_GRAD(StatelessRandomUniformFullIntV2) NO_GRAD(StatelessRandomUniformInt) NO_GRAD(StatelessRandomUniformIntV2)
    NO_GRAD(StatelessRandomUniformV2) NO_GRAD(StatelessShuffle) NO_GRAD(StatelessTruncatedNormal)
    NO_GRAD(StatelessTruncatedNormalV2) NO_GRAD(TruncatedNormal)

    // Candidates for sampled losses.
    NO_GRAD(AllCandidateSampler) NO_GRAD(ComputeAccidentalHits) NO_GRAD(FixedUnigramCandidateSampler)
    NO_GRAD(LearnedUnigramCandidateSampler) NO_GRAD(LogUniformCandidateSampler)
    NO_GRAD(ThreadUnsafeUnigramCandidateSampler) NO_GRAD(UniformCandidateSampler)

    RULE(RandomGamma, return {none, Gamma(o, 1)};)
    RULE(StatelessRandomGammaV2, return {none, none, Gamma(o, 2)};)
    RULE(StatelessRandomGammaV3, return {none, none, none, none, Gamma(o, 4)};)
    {"StatelessParameterizedTruncatedNormal", TruncatedNormalGrad},
};
// clang-format on
SYMGRAD_REGISTER(kRules)

}  // namespace
}  // namespace symgrad
