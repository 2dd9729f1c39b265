#include "passes/pipeline.h"
