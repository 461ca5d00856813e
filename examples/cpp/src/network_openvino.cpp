// OpenVINO, linked: headers, CMake files and libraries are all in its Python package.
#include <algorithm>

#include <openvino/openvino.hpp>

#include "network.hpp"

const char* const runtime_name = "openvino";
const std::vector<std::string> loadable_kinds{"onnx", "openvino"};

namespace {

template <typename Value>
Output output_of(const ov::Tensor& answer) {
    const auto shape = answer.get_shape();
    const auto* data = answer.data<const Value>();
    return {{shape.begin(), shape.end()}, std::vector<float>(data, data + answer.get_size())};
}

ov::Core& core() {
    static ov::Core one;
    return one;
}

class OpenVino final : public Network {
public:
    OpenVino(const std::string& path, const Choice& choice, int threads) : artifact_(*choice.artifact) {
        // Always asked for: where the processor has bf16, OpenVINO would otherwise take that by itself.
        const auto precision = choice.bf16 ? ov::element::bf16 : ov::element::f32;
        auto compiled = core().compile_model(path, "CPU", ov::inference_num_threads(threads),
                                            ov::hint::inference_precision(precision),
                                            ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY));
        request_ = compiled.create_infer_request();
    }

    Output run(std::vector<float>& input) override {
        const ov::Shape shape(artifact_.input_shape.begin(), artifact_.input_shape.end());
        request_.set_tensor(artifact_.input, ov::Tensor(ov::element::f32, shape, input.data()));
        request_.infer();
        const auto answer = request_.get_tensor(artifact_.postprocess.tensor);
        const auto type = answer.get_element_type();
        if (type == ov::element::f32) return output_of<float>(answer);
        if (type == ov::element::u8) return output_of<std::uint8_t>(answer);
        if (type == ov::element::u16) return output_of<std::uint16_t>(answer);
        throw UserError("'" + artifact_.path + "' answers neither in float32 nor in class numbers");
    }

private:
    Artifact artifact_;
    ov::InferRequest request_;
};

}  // namespace

std::vector<std::string> executable_precisions() {
    const std::pair<std::string, std::string> names[] = {{ov::device::capability::BF16, "bf16"},
                                                         {ov::device::capability::FP16, "fp16"},
                                                         {ov::device::capability::FP32, "fp32"},
                                                         {ov::device::capability::INT8, "int8"}};
    const auto can = core().get_property("CPU", ov::device::capabilities);
    std::vector<std::string> all;
    for (const auto& [theirs, ours] : names)
        if (std::find(can.begin(), can.end(), theirs) != can.end()) all.push_back(ours);
    return all;
}

std::unique_ptr<Network> open_network(const Bundle& bundle, const Choice& choice, int threads,
                                      const std::string& library) {
    if (!library.empty()) throw UserError("--library is for segment-onnxruntime; OpenVINO is linked");
    // Only to check the hashes; OpenVINO reads the file, and its weights, itself.
    bundle.read(choice.artifact->path);
    for (const auto& file : choice.artifact->files) bundle.read(file);
    return std::make_unique<OpenVino>((bundle.root / choice.artifact->path).string(), choice, threads);
}
