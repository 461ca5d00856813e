// OpenVINO, linked: headers, CMake files and libraries are all in its Python package.
#include <openvino/openvino.hpp>

#include "network.hpp"

const char* const runtime_name = "openvino";
const std::vector<std::string> loadable_kinds{"onnx", "openvino"};

namespace {

class OpenVino final : public Network {
public:
    OpenVino(const std::string& path, const Artifact& artifact, int threads) : artifact_(artifact) {
        // f32 is asked for: where the processor has bf16, OpenVINO would otherwise take that by itself.
        auto compiled = core_.compile_model(path, "CPU", ov::inference_num_threads(threads),
                                            ov::hint::inference_precision(ov::element::f32),
                                            ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY));
        request_ = compiled.create_infer_request();
    }

    Output run(std::vector<float>& input) override {
        const ov::Shape shape(artifact_.input_shape.begin(), artifact_.input_shape.end());
        request_.set_tensor(artifact_.input, ov::Tensor(ov::element::f32, shape, input.data()));
        request_.infer();
        const auto answer = request_.get_tensor(artifact_.postprocess.tensor);
        if (answer.get_element_type() != ov::element::f32)
            throw UserError("'" + artifact_.path + "' does not answer in float32, which this program expects");
        const auto found = answer.get_shape();
        const auto* data = answer.data<const float>();
        return {{found.begin(), found.end()}, std::vector<float>(data, data + answer.get_size())};
    }

private:
    Artifact artifact_;
    ov::Core core_;
    ov::InferRequest request_;
};

}  // namespace

std::unique_ptr<Network> open_network(const Bundle& bundle, const Artifact& artifact, int threads,
                                      const std::string& library) {
    if (!library.empty()) throw UserError("--library is for segment-onnxruntime; OpenVINO is linked");
    // Only to check the hashes; OpenVINO reads the file, and its weights, itself.
    bundle.read(artifact.path);
    for (const auto& file : artifact.files) bundle.read(file);
    return std::make_unique<OpenVino>((bundle.root / artifact.path).string(), artifact, threads);
}
