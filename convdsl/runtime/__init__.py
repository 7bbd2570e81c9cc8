"""Programs that run: kernels compiled and cached, parameters, devices."""
