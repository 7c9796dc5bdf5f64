/**
 * The types in which a model's weights can be held. int8: the linear layers inside the blocks of
 * transformer and T5 have weights of 8 bits, and all else is in the type that suits the provider.
 */
export const PRECISIONS = ["float32", "float16", "bfloat16", "int8"] as const;
export type Precision = (typeof PRECISIONS)[number];
