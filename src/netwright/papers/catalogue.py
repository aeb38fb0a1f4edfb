"""The 69 papers as plain data. Whether one is implemented is not written here: see `frame.implemented`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One paper of the list.

    Attributes:
        number: Its number.
        slug: Its short name.
        package: The Netwright package that holds, or will hold, its method.
        title: Its title.
        what: What it is, in one line.
    """

    number: int
    slug: str
    package: str
    title: str
    what: str


#: Every paper, in the order of the numbers.
LISTING: tuple[Entry, ...] = (
    Entry(
        1,
        "precropping",
        "pruning",
        "Structured Pruning is All You Need for Pruning CNNs at Initialization",
        "channel widths before training, from scores at initialisation",
    ),
    Entry(
        2,
        "s4",
        "models",
        "Efficiently Modeling Long Sequences with Structured State Spaces",
        "sequence model on structured state spaces, for long-range dependencies",
    ),
    Entry(
        3,
        "meal-v2",
        "train",
        "MEAL V2: Boosting Vanilla ResNet-50 to 80%+ Top-1 Accuracy on ImageNet without Tricks",
        "distils an ensemble's soft labels into one network, with a discriminator on its outputs",
    ),
    Entry(
        4,
        "paratranscnn",
        "models",
        "ParaTransCNN: Parallelized TransCNN Encoder for Medical Image Segmentation",
        "CNN and pyramid Transformer side by side as the encoder of a segmentation network",
    ),
    Entry(
        5,
        "damo-yolo",
        "nas",
        "DAMO-YOLO : A Report on Real-Time Object Detection Design",
        "object detector with a searched backbone, a heavy neck and distillation",
    ),
    Entry(
        6,
        "resnet-rs",
        "nas",
        "Revisiting ResNets: Improved Training and Scaling Strategies",
        "ResNets with modern training and rules for scaling depth and resolution",
    ),
    Entry(
        7,
        "stitchable-nets",
        "compose",
        "Stitchable Neural Networks",
        "stitches pretrained networks of a family into many networks of sizes in between",
    ),
    Entry(
        8,
        "resnls",
        "science",
        "ResNLS: An Improved Model for Stock Price Forecasting",
        "ResNet and LSTM in one network for stock prices",
    ),
    Entry(
        9,
        "pleas",
        "compose",
        "PLeaS -- Merging Models with Permutations and Least Squares",
        "merges two networks by partial permutation and least squares",
    ),
    Entry(
        10,
        "vit-resnas",
        "supernets",
        "Searching for Efficient Multi-Stage Vision Transformers",
        "multi-stage vision Transformers by a weight-sharing search with several architectures a step",
    ),
    Entry(
        11,
        "simplenet",
        "models",
        "Lets keep it simple, Using simple architectures to outperform deeper and more complex architectures",
        "plain convolutional network of 13 layers against deeper ones",
    ),
    Entry(
        12,
        "hypernet-review",
        "compose",
        "A Brief Review of Hypernetworks in Deep Learning",
        "hypernetworks: networks that generate another network's weights, as a toolkit",
    ),
    Entry(
        13,
        "rrnet",
        "science",
        "A Model RRNet for Spectral Information Exploitation and LAMOST Medium-resolution Spectrum "
        "Parameter Estimation",
        "residual recurrent network for stellar parameters from LAMOST spectra",
    ),
    Entry(
        14,
        "nat",
        "graphs",
        "Neighborhood-aware Scalable Temporal Network Representation Learning",
        "temporal graph representation with dictionaries of neighbours",
    ),
    Entry(
        15,
        "rnn-sparsity",
        "pruning",
        "Investigating Sparsity in Recurrent Neural Networks",
        "pruned and randomly structured recurrent networks",
    ),
    Entry(16, "poincare-resnet", "models", "Poincaré ResNet", "residual network wholly in the Poincaré ball"),
    Entry(
        17,
        "dr-baseline",
        "science",
        "A ResNet is All You Need? Modeling A Strong Baseline for Detecting Referable Diabetic "
        "Retinopathy in Fundus Images",
        "strong ResNet-18 baseline for referable diabetic retinopathy",
    ),
    Entry(
        18,
        "quantized-resnet-pareto",
        "quantization",
        "Pareto-Optimal Quantized ResNet Is Mostly 4-bit",
        "accuracy against cost of ResNets at 4 and 8 bits",
    ),
    Entry(
        19,
        "mixture-of-supernets",
        "supernets",
        "Mixture-of-Supernets: Improving Weight-Sharing Supernet Training with Architecture-Routed "
        "Mixture-of-Experts",
        "supernet whose weights an architecture-routed mixture of experts makes",
    ),
    Entry(
        20,
        "nasnet",
        "nas",
        "Learning Transferable Architectures for Scalable Image Recognition",
        "cell search by reinforcement learning, transferred to larger images",
    ),
    Entry(
        21,
        "tanglenas",
        "supernets",
        "Weight-Entanglement Meets Gradient-Based Neural Architecture Search",
        "gradient-based search on entangled supernet weights",
    ),
    Entry(
        22,
        "hardware-aware-search",
        "nas",
        "A Hardware-Aware System for Accelerating Deep Neural Network Optimization",
        "evolution with predictors on a supernet, for a given hardware",
    ),
    Entry(
        23,
        "inception-v4",
        "models",
        "Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning",
        "Inception with residual connections",
    ),
    Entry(
        24,
        "shiftnas",
        "supernets",
        "ShiftNAS: Improving One-shot NAS via Probability Shift",
        "one-shot training whose path probabilities shift to what needs training",
    ),
    Entry(
        25,
        "diskgnn",
        "graphs",
        "DiskGNN: Bridging I/O Efficiency and Model Accuracy for Out-of-Core GNN Training",
        "out-of-core training of graph networks with packed features",
    ),
    Entry(
        26,
        "tas",
        "pruning",
        "Network Pruning via Transformable Architecture Search",
        "widths and depths of a pruned network by gradient, then distillation",
    ),
    Entry(
        27,
        "protein-rpn",
        "science",
        "ProteinRPN: Towards Accurate Protein Function Prediction with Graph-Based Region Proposals",
        "protein function from proposed regions of the residue graph",
    ),
    Entry(
        28,
        "random-pruning",
        "pruning",
        "The Unreasonable Effectiveness of Random Pruning: Return of the Most Naive Baseline for Sparse "
        "Training",
        "random pruning at initialisation with good layer-wise ratios",
    ),
    Entry(
        29,
        "bossnas",
        "supernets",
        "BossNAS: Exploring Hybrid CNN-transformers with Block-wisely Self-supervised Neural "
        "Architecture Search",
        "block-wise self-supervised search over convolution and Transformer blocks",
    ),
    Entry(
        30,
        "balanced-supernet-mixture",
        "supernets",
        "Balanced Mixture of SuperNets for Learning the CNN Pooling Architecture",
        "where to pool in a network, by a balanced mixture of supernets",
    ),
    Entry(
        31,
        "fastrp",
        "graphs",
        "Fast and Accurate Network Embeddings via Very Sparse Random Projection",
        "node embeddings by very sparse random projection",
    ),
    Entry(
        32,
        "masksparsity",
        "pruning",
        "Pruning-aware Sparse Regularization for Network Pruning",
        "sparse regularisation of only those channels that will be pruned",
    ),
    Entry(
        33,
        "vovnet",
        "models",
        "An Energy and GPU-Computation Efficient Backbone Network for Real-Time Object Detection",
        "one-shot aggregation backbone, cheap in energy and memory access",
    ),
    Entry(
        34,
        "dependency-preserving-hypernets",
        "compose",
        "Continual Learning with Dependency Preserving Hypernetworks",
        "recurrent hypernetwork for continual learning",
    ),
    Entry(
        35,
        "mip-hypernets",
        "compose",
        "Magnitude Invariant Parametrizations Improve Hypernetwork Learning",
        "input encodings and residuals that make hypernetworks train well",
    ),
    Entry(
        36,
        "n2n",
        "pruning",
        "N2N Learning: Network to Network Compression via Policy Gradient Reinforcement Learning",
        "compresses a network by reinforcement learning on its layers",
    ),
    Entry(
        37,
        "rich-lazy",
        "metrics",
        "How connectivity structure shapes rich and lazy learning in neural circuits",
        "how the rank of initial weights decides between rich and lazy learning",
    ),
    Entry(
        38,
        "learngene-pool",
        "compose",
        "Building Variable-sized Models via Learngene Pool",
        "networks of many sizes from a pool of distilled instances",
    ),
    Entry(
        39,
        "recat",
        "models",
        "Augmenting Transformers with Recursively Composed Multi-grained Representations",
        "Transformer over recursively composed spans",
    ),
    Entry(
        40,
        "bignas",
        "supernets",
        "BigNAS: Scaling Up Neural Architecture Search with Big Single-Stage Models",
        "single-stage supernet from which networks are used without retraining",
    ),
    Entry(
        41,
        "ibn-net",
        "models",
        "Two at Once: Enhancing Learning and Generalization Capacities via IBN-Net",
        "instance and batch normalisation together, for other domains",
    ),
    Entry(
        42,
        "petct-slices",
        "science",
        "A slice classification neural network for automated classification of axial PET/CT slices from "
        "a multi-centric lymphoma dataset",
        "which PET/CT slices show lymphoma, and how a leaky split flatters",
    ),
    Entry(
        43,
        "activating-while-pruning",
        "pruning",
        "AP: Selective Activation for De-sparsifying Pruned Neural Networks",
        "wakes dead units while pruning",
    ),
    Entry(
        44,
        "eas",
        "compose",
        "Efficient Architecture Search by Network Transformation",
        "search by widening and deepening a trained network",
    ),
    Entry(
        45,
        "fbnetv3",
        "nas",
        "FBNetV3: Joint Architecture-Recipe Search using Predictor Pretraining",
        "joint search of architecture and training recipe by a pretrained predictor",
    ),
    Entry(
        46,
        "rim-mri",
        "science",
        "Reconstructing unseen modalities and pathology with an efficient Recurrent Inference Machine",
        "recurrent inference machine with cheap cells for MRI reconstruction",
    ),
    Entry(
        47,
        "simclrv2",
        "train",
        "Big Self-Supervised Models are Strong Semi-Supervised Learners",
        "self-supervised pretraining, fine-tuning on few labels, distillation",
    ),
    Entry(
        48,
        "few-shot-nas-gm",
        "supernets",
        "Generalizing Few-Shot NAS with Gradient Matching",
        "splits a supernet by how well gradients match",
    ),
    Entry(
        49,
        "sortednet",
        "supernets",
        "SortedNet, a Place for Every Network and Every Network in its Place: Towards a Generalized "
        "Solution for Training Many-in-One Neural Networks",
        "nested sub-networks trained together, found without search",
    ),
    Entry(
        50,
        "auto-gnn",
        "nas",
        "Auto-GNN: Neural Architecture Search of Graph Neural Networks",
        "search of graph networks by conservative exploration with shared weights",
    ),
    Entry(
        51,
        "iss-p",
        "pruning",
        "Iterative Soft Shrinkage Learning for Efficient Image Super-Resolution",
        "soft shrinkage of small weights while training super-resolution networks",
    ),
    Entry(
        52,
        "simplicial-closure",
        "graphs",
        "Simplicial Closure and higher-order link prediction",
        "which sets of nodes close: higher-order link prediction",
    ),
    Entry(
        53,
        "quantnas",
        "quantization",
        "QuantNAS for super resolution: searching for efficient quantization-friendly architectures "
        "against quantization noise",
        "search of super-resolution networks under quantisation noise",
    ),
    Entry(
        54,
        "task-geometry",
        "metrics",
        "Task structure and nonlinearity jointly determine learned representational geometry",
        "geometry of learned representations from task and nonlinearity",
    ),
    Entry(
        55,
        "grassmann-class-representation",
        "models",
        "Get the Best of Both Worlds: Improving Accuracy and Transferability by Grassmann Class "
        "Representation",
        "classes as subspaces, for accuracy and transfer",
    ),
    Entry(
        56,
        "spatiospatial-mri",
        "science",
        "Classification of Brain Tumours in MR Images using Deep Spatiospatial Models",
        "(2+1)D and mixed-convolution networks for brain tumours in MRI",
    ),
    Entry(
        57,
        "random-search-sparse",
        "pruning",
        "Random Search as a Baseline for Sparse Neural Network Architecture Search",
        "random search as the baseline of sparse architecture search",
    ),
    Entry(
        58,
        "nas-evaluation",
        "nas",
        "NAS evaluation is frustratingly hard",
        "search strategies against random sampling under one protocol",
    ),
    Entry(
        59,
        "exssnet",
        "pruning",
        "Exclusive Supermask Subnetwork Training for Continual Learning",
        "continual learning by exclusive sub-networks under supermasks",
    ),
    Entry(
        60,
        "pa-da",
        "supernets",
        "PA&DA: Jointly Sampling PAth and DAta for Consistent NAS",
        "samples paths and data by importance for consistent one-shot search",
    ),
    Entry(
        61,
        "supertickets",
        "pruning",
        "SuperTickets: Drawing Task-Agnostic Lottery Tickets from Supernets via Jointly Architecture "
        "Searching and Parameter Pruning",
        "lottery tickets drawn from a supernet while it is searched",
    ),
    Entry(
        62,
        "lottery-rewinding",
        "pruning",
        "Stabilizing the Lottery Ticket Hypothesis",
        "iterative pruning with rewinding to an early step",
    ),
    Entry(
        63,
        "atlantic",
        "graphs",
        "ATLANTIC: Structure-Aware Retrieval-Augmented Language Model for Interdisciplinary Science",
        "retrieval that knows the document graph, for science questions",
    ),
    Entry(
        64,
        "spa",
        "pruning",
        "Structurally Prune Anything: Any Architecture, Any Framework, Any Time",
        "structured pruning of any architecture, before, after or without training",
    ),
    Entry(
        65,
        "guidance",
        "train",
        "Training the Untrainable: Introducing Inductive Bias via Representational Alignment",
        "guides a network that does not train by the representation of another",
    ),
    Entry(
        66,
        "calibration-study",
        "metrics",
        "A Benchmark Study on Calibration",
        "calibration of many architectures under many measures",
    ),
    Entry(
        67,
        "dataset-reinforcement",
        "data",
        "Reinforce Data, Multiply Impact: Improved Model Accuracy and Robustness with Dataset Reinforcement",
        "a data set reinforced once by a teacher's answers on augmented images",
    ),
    Entry(
        68,
        "granet",
        "pruning",
        "Sparse Training via Boosting Pruning Plasticity with Neuroregeneration",
        "gradual pruning with regrowth at no cost",
    ),
    Entry(
        69,
        "rdesign",
        "science",
        "RDesign: Hierarchical Data-efficient Representation Learning for Tertiary Structure-based RNA "
        "Design",
        "RNA sequences for a given tertiary structure",
    ),
)
